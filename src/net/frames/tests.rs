use std::time::Duration;

use super::*;

fn frame(kind: u8, length: usize) -> Vec<u8> {
    let length_bytes = u32::try_from(length).unwrap().to_be_bytes();
    let mut frame = vec![length_bytes[1], length_bytes[2], length_bytes[3], kind, 0, 0, 0, 0, 1];
    frame.resize(HEADER + length, 0);
    frame
}

/// Returns the preface and a client's SETTINGS frame.
fn begun() -> Vec<u8> {
    [&[0; PREFACE], &frame(SETTINGS, 0)[..]].concat()
}

#[test]
fn the_first_frame_is_settings() {
    let first = |kind: u8| {
        let mut meter = FrameMeter::new();
        let now = meter.refilled;
        let bytes = [&[0; PREFACE], &frame(kind, 4)[..]].concat();
        meter.takes(&bytes, &mut OpenAnswers::new(), Credit::default(), now)
    };
    assert!(first(SETTINGS) && !first(HEADERS) && !first(DATA) && !first(6));
}

impl FrameMeter {
    fn takes_from(&mut self, bytes: &[u8], credit: Credit, now: Instant) -> bool {
        self.takes(bytes, &mut OpenAnswers::new(), credit, now)
    }
}

fn flagged(kind: u8, flags: u8, stream: u8, length: usize) -> Vec<u8> {
    let mut frame = frame(kind, length);
    (frame[4], frame[8]) = (flags, stream);
    frame
}

/// Whether the client has still to send the rest of a frame or header block after `bytes`. The
/// answer must be the same for `bytes` in pieces of any size.
fn owes(bytes: &[u8]) -> bool {
    let answers = [1, 2, 5, 9, 1000].map(|piece| {
        let mut meter = FrameMeter::new();
        let start = meter.refilled;
        for (number, piece) in
            begun().iter().chain(bytes).copied().collect::<Vec<_>>().chunks(piece).enumerate()
        {
            let now = start + Duration::from_millis(number as u64);
            assert!(meter.takes_from(piece, Credit::default(), now));
        }
        meter.incomplete_since().is_some()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    answers[0]
}

#[test]
fn the_rest_of_a_head_is_owed_and_that_of_a_body_is_not() {
    let whole = flagged(HEADERS, END_HEADERS, 1, 20);
    let open = flagged(HEADERS, 0, 1, 20);
    let last = flagged(CONTINUATION, END_HEADERS, 1, 20);
    let data = frame(DATA, 100);
    for complete in [&[][..], &whole, &[&open[..], &last].concat(), &data, &data[..50]] {
        assert!(!owes(complete), "{complete:?}");
    }
    let more = flagged(CONTINUATION, 0, 1, 0).repeat(3);
    for partial in [&open[..], &whole[..15], &whole[..5], &[&open[..], &more].concat(), &frame(6, 8)[..10]] {
        assert!(owes(partial), "{partial:?}");
    }
}

#[test]
fn a_head_that_drips_is_incomplete_since_its_beginning_and_a_new_one_since_its_own() {
    let mut meter = FrameMeter::new();
    let start = meter.refilled;
    let at = |second: u64| start + Duration::from_secs(second);
    assert!(meter.takes_from(&begun(), Credit::default(), at(0)));
    let (open, last) = (flagged(HEADERS, 0, 1, 4), flagged(CONTINUATION, END_HEADERS, 1, 4));
    assert!(meter.takes_from(&open, Credit::default(), at(1)));
    assert!(meter.takes_from(&flagged(CONTINUATION, 0, 1, 4), Credit::default(), at(5)));
    assert_eq!(meter.incomplete_since(), Some(at(1)));
    assert!(meter.takes_from(&[&last[..], &open].concat(), Credit::default(), at(9)));
    assert_eq!(meter.incomplete_since(), Some(at(9)));
}

#[test]
fn an_answer_is_open_until_its_end_is_written_or_either_side_resets_it() {
    let mut answers = OpenAnswers::new();
    let heads: Vec<u8> = [1, 3, 5, 7].iter().flat_map(|id| flagged(HEADERS, END_HEADERS, *id, 30)).collect();
    for piece in heads.chunks(7) {
        assert!(!answers.wrote(piece));
    }
    assert_eq!(answers.count(), 4);
    assert!(answers.wrote(&flagged(DATA, 0, 1, 10)));
    assert!(answers.wrote(&flagged(DATA, END_STREAM, 1, 10)));
    answers.wrote(&flagged(RST_STREAM, 0, 3, 4));
    answers.wrote(&flagged(HEADERS, END_HEADERS | END_STREAM, 5, 4));
    assert_eq!(answers.count(), 1);
    let mut meter = FrameMeter::new();
    let reset = [begun(), flagged(RST_STREAM, 0, 7, 4)].concat();
    let now = meter.refilled;
    assert!(meter.takes(&reset, &mut answers, Credit::default(), now));
    assert_eq!(answers.count(), 0);
}

/// Returns how many frames a connection accepts: the client's settings, and then copies of
/// `frame` in pieces of `piece` bytes.
fn taken(frame: &[u8], piece: usize, credit: Credit) -> usize {
    let mut meter = FrameMeter::new();
    let now = meter.refilled;
    assert!(meter.takes_from(&begun(), credit, now));
    let mut frames = 1;
    while frames < 50_000 {
        for piece in frame.chunks(piece) {
            if !meter.takes_from(piece, credit, now) {
                return frames;
            }
        }
        frames += 1;
    }
    frames
}

#[test]
fn frames_that_carry_nothing_end_and_others_do_not() {
    let none = Credit::default();
    for piece in [1, 2, 8, 9, 10, 1000] {
        for kind in [2, 3, 4, 6, 9, 0x55] {
            assert_eq!(taken(&frame(kind, 8), piece, none), 2000, "{kind} in {piece}s");
        }
        assert_eq!(taken(&frame(WINDOW_UPDATE, 4), piece, none), 1 + 16 * 1999);
        assert_eq!(taken(&frame(DATA, 0), piece, none), 2000);
        assert_eq!(taken(&frame(DATA, 1), piece, none), 50_000);
        assert_eq!(taken(&frame(HEADERS, 30), piece, none), 50_000);
    }
}

#[test]
fn two_windows_for_each_frame_that_was_written_are_no_flood_and_more_are() {
    let (mut meter, mut answers) = (FrameMeter::new(), OpenAnswers::new());
    let now = meter.refilled;
    assert!(meter.takes(&begun(), &mut answers, Credit::default(), now));
    let window = frame(WINDOW_UPDATE, 4);
    for _ in 0..200_000 {
        assert!(answers.wrote(&frame(DATA, 1)));
        assert!(meter.takes(&window.repeat(2), &mut answers, Credit::default(), now));
    }
    // Empty DATA frames earn no credit.
    answers.wrote(&frame(DATA, 0).repeat(50_000));
    assert!(!meter.takes(&window.repeat(16 * 2000), &mut answers, Credit::default(), now));
}

#[test]
fn settings_say_our_size_and_nothing_else_changes() {
    let entry = |id: u8, value: u32| [&[0, id], &value.to_be_bytes()[..]].concat();
    let settings = |size: u32| {
        let entries = [entry(3, 200), entry(6, size), entry(4, 6)].concat();
        [&[0, 0, 18, 4, 0, 0, 0, 0, 0], &entries[..], b"more"].concat()
    };
    assert_eq!(with_header_list(&settings(131_072), 32_768).unwrap(), settings(32_768));
    for other in [&frame(6, 8)[..], b"HTTP/1.1 200 OK", b"", &settings(1)[..12]] {
        assert_eq!(with_header_list(other, 1), None);
    }
}

#[test]
fn work_earns_frames_and_so_does_time_within_bounds() {
    let ping = frame(6, 8);
    assert_eq!(taken(&ping, 100, Credit { requests: 10, ..Credit::default() }), 2080);
    assert_eq!(taken(&ping, 100, Credit { requests: 0, frames: 10, bytes: 10 * 1024 }), 2050);
    assert_eq!(taken(&ping, 100, Credit { bytes: usize::MAX, ..Credit::default() }), 20_000);
    let mut meter = FrameMeter::new();
    let start = meter.refilled;
    assert!(meter.takes_from(&begun(), Credit::default(), start));
    let pings = ping.repeat(100);
    // 200 PINGs per second for an hour are accepted.
    for half_second in 0..7200 {
        assert!(meter.takes_from(
            &pings,
            Credit::default(),
            start + Duration::from_millis(500) * half_second
        ));
    }
}

//! Tests of the order of those who wait.

use super::super::class::MOST_REMEMBERED;
use super::*;

fn who(class: Priority, key: usize, weight: u32) -> Who {
    Who { class, key, weight }
}

fn granted(line: &mut Line<usize>) -> Option<usize> {
    line.next(|_| Offer::Taken(())).map(|(_, item, ..)| item)
}

#[test]
fn a_key_with_one_request_is_before_the_flood_of_another_and_requests_of_a_key_stay_in_order() {
    let mut line = Line::new(20);
    for item in 0..100 {
        line.push(who(Priority::Standard, 1, 1), false, item);
    }
    assert_eq!((granted(&mut line), granted(&mut line)), (Some(0), Some(1)));
    line.push(who(Priority::Standard, 2, 1), false, 1000);
    // The newcomer starts level with the flood, whose first request came before.
    assert_eq!((granted(&mut line), granted(&mut line)), (Some(2), Some(1000)));
    assert_eq!(
        (3..100).map(Some).collect::<Vec<_>>(),
        (3..100).map(|_| granted(&mut line)).collect::<Vec<_>>()
    );
    assert_eq!((granted(&mut line), line.len()), (None, 0));
}

#[test]
fn keys_share_by_weight_in_units_that_they_were_served() {
    // Key 1 has three times the weight of key 2, whose requests are four times as large.
    let mut line = Line::new(20);
    let (heavy, light) = (who(Priority::Standard, 1, 3), who(Priority::Standard, 2, 1));
    let mut served = [0.0; 2];
    for _ in 0..4 {
        line.push(heavy, false, 0);
        line.push(light, false, 1);
    }
    for _ in 0..20_000 {
        let (_, item, (), charged) = line.next(|_| Offer::Taken(())).unwrap();
        let (who, units) = if item == 0 { (heavy, 100) } else { (light, 400) };
        line.push(who, false, item);
        line.settle(who, charged, Outcome::Served(units));
        served[item] += units as f64;
    }
    let ratio = served[0] / served[1];
    assert!((ratio - 3.0).abs() < 0.06, "{ratio}");
}

#[test]
fn a_lower_class_waits_for_the_higher_ones_and_has_a_share_that_is_its_own() {
    let mut line = Line::new(20);
    for item in 0..1000 {
        line.push(who(Priority::Interactive, item % 7, 1), false, 0);
        line.push(who(Priority::Standard, 1, 1), false, 1);
        line.push(who(Priority::Batch, 2, 1), false, 2);
    }
    let mut counts = [0; 3];
    let mut since = [0; 3];
    for _ in 0..1000 {
        let class = granted(&mut line).unwrap();
        counts[class] += 1;
        since.iter_mut().for_each(|since| *since += 1);
        since[class] = 0;
        assert!(since.iter().all(|since| *since <= 21), "{since:?}");
    }
    assert!(counts[0] >= 890 && counts[1] >= 47 && counts[2] >= 47, "{counts:?}");
}

#[test]
fn no_share_of_the_lower_classes_keeps_the_highest_out() {
    let mut line = Line::new(1);
    for _ in 0..300 {
        for class in Priority::ALL {
            line.push(who(class, 1, 1), false, class.index());
        }
    }
    let next: Vec<usize> = (0..300).map(|_| granted(&mut line).unwrap()).collect();
    for class in 0..3 {
        let count = next.iter().filter(|granted| **granted == class).count();
        assert!((99..=101).contains(&count), "{class}: {count}");
    }
}

#[test]
fn what_was_charged_too_much_brings_no_key_below_where_it_began() {
    let mut line = Line::new(20);
    let (idle, busy) = (who(Priority::Standard, 1, 1), who(Priority::Standard, 2, 1));
    for _ in 0..300 {
        line.push(busy, false, 2);
    }
    line.push(idle, false, 1);
    let mut granted_to_idle = 0;
    while granted_to_idle == 0 {
        let (_, item, (), charged) = line.next(|_| Offer::Taken(())).unwrap();
        granted_to_idle += usize::from(item == 1);
        line.settle(if item == 1 { idle } else { busy }, charged, Outcome::Served(1));
    }
    for _ in 0..100 {
        granted(&mut line);
    }
    // Its one request is settled late, many times over: that brings it level, and no further.
    for _ in 0..50 {
        line.settle(idle, 1.0, Outcome::NotSent);
    }
    for _ in 0..50 {
        line.push(idle, false, 1);
    }
    let next: Vec<usize> = (0..20).map(|_| granted(&mut line).unwrap()).collect();
    assert_eq!(next.iter().filter(|key| **key == 1).count(), 10, "{next:?}");
}

#[test]
fn a_full_line_makes_room_at_the_cost_of_the_longest_queue_of_the_lowest_class() {
    let mut line = Line::new(20);
    for item in 0..10 {
        line.push(who(Priority::Batch, item % 2, 1), false, item);
    }
    let mut displaced = |who| line.displace(who).map(|(_, item)| item);
    assert_eq!(displaced(who(Priority::Batch, 0, 1)), None, "its own key has as many");
    assert_eq!(displaced(who(Priority::Interactive, 9, 1)), Some(9));
    assert_eq!(displaced(who(Priority::Batch, 3, 1)), Some(8));
    assert_eq!(line.len(), 8);
    (0..8).for_each(|item| assert_eq!(granted(&mut line), Some(item)));
    line.push(who(Priority::Interactive, 1, 1), false, 1);
    assert!(line.displace(who(Priority::Standard, 2, 1)).is_none());
}

#[test]
fn one_who_returns_is_next_and_one_who_left_is_not_granted() {
    let mut line = Line::new(20);
    let first = line.push(who(Priority::Batch, 1, 1), false, 1);
    line.push(who(Priority::Interactive, 2, 1), false, 2);
    let third = line.push(who(Priority::Interactive, 2, 1), false, 3);
    assert_eq!(line.remove(third), Some(3));
    assert_eq!(line.remove(third), None);
    let (standing, item, (), _) =
        line.next(|item| if *item == 1 { Offer::Taken(()) } else { Offer::NotThisOne }).unwrap();
    assert_eq!((standing, item), (first, 1));
    line.push(standing.who, true, 1);
    assert_eq!((line.ahead_of(Priority::Interactive), line.of_class(Priority::Batch)), (2, 1));
    assert_eq!((granted(&mut line), granted(&mut line), granted(&mut line)), (Some(1), Some(2), None));
}

#[test]
fn a_key_that_pauses_gains_nothing_and_keys_that_left_are_forgotten() {
    let mut line = Line::new(20);
    for key in 0..3 {
        for _ in 0..100 {
            line.push(who(Priority::Standard, key, 1), false, key);
        }
    }
    for _ in 0..150 {
        granted(&mut line);
    }
    // A key that comes now has no claim to the 50 requests that the others were served.
    for _ in 0..50 {
        line.push(who(Priority::Standard, 9, 1), false, 9);
    }
    let next: Vec<usize> = (0..40).map(|_| granted(&mut line).unwrap()).collect();
    let newcomer = next.iter().filter(|key| **key == 9).count();
    assert_eq!(newcomer, 10, "{next:?}");
    for key in 1000..20_000 {
        line.settle(who(Priority::Standard, key, 1), 0.0, Outcome::Served(1));
    }
    assert!(line.classes[1].known_keys() <= MOST_REMEMBERED + 4);
    while granted(&mut line).is_some() {}
    assert!(line.classes.iter().all(|class| class.known_keys() == 0));
}

"""The recording in README: what the demo prints and answers today."""

import xml.etree.ElementTree as tree

import record_demo
from record_demo import CAST, SVG, SHOWN, compared, events_of, svg


def test_the_recording_is_what_the_demo_prints_today():
    recorded = events_of(CAST.read_text())
    lines = [line for _, line in recorded]
    for beginning in SHOWN:
        assert [line for line in lines if line.startswith(beginning)], beginning
    assert compared(recorded) == compared(record_demo.run()), "`make recording` makes it anew"


def test_the_picture_is_made_of_the_recording():
    assert SVG.read_text() == svg(events_of(CAST.read_text()))
    tree.parse(SVG)

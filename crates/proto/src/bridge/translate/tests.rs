//! What data becomes in the other encoding, by the standards that say it.

use super::*;

fn json_of(from: u16, cbor: &str) -> Result<String, &'static str> {
    let payload = hex::decode(cbor.replace(' ', "")).unwrap();
    let to = Encoding::Json.format(from).unwrap();
    match translated(from, to, &payload) {
        Ok(json) => Ok(String::from_utf8(json.to_vec()).unwrap()),
        Err(NotTranslated(why)) => Err(why),
    }
}

fn cbor_of(from: u16, json: &str) -> Result<String, &'static str> {
    let to = Encoding::Cbor.format(from).unwrap();
    match translated(from, to, json.as_bytes()) {
        Ok(cbor) => Ok(hex::encode(cbor)),
        Err(NotTranslated(why)) => Err(why),
    }
}

#[test]
fn cbor_becomes_json_as_rfc_8949_has_it() {
    for (cbor, json) in [
        ("00", "0"),
        ("1bffffffffffffffff", "18446744073709551615"),
        ("3bffffffffffffffff", "-18446744073709551616"),
        ("1b001fffffffffffff", "9007199254740991"),
        ("f93e00", "1.5"),
        ("fb3ff199999999999a", "1.1"),
        ("f94900", "10.0"),
        ("f97e00", "null"),
        ("f97c00", "null"),
        ("f4", "false"),
        ("f6", "null"),
        ("f7", "null"),
        ("44ffeeddcc", "\"_-7dzA\""),
        ("d644ffeeddcc", "\"/+7dzA==\""),
        ("d744ffeeddcc", "\"FFEEDDCC\""),
        ("d78244ffee00cc d54101", "[\"FFEE00CC\",\"AQ\"]"),
        ("c249010000000000000000", "\"AQAAAAAAAAAA\""),
        ("c349010000000000000000", "\"~AQAAAAAAAAAA\""),
        ("c48221196ab3", "27315e-2"),
        ("c11a514b67b0", "1363896240"),
        ("64c3bc220a", "\"ü\\\"\\n\""),
        ("9f0102ff", "[1,2]"),
        ("7f61616162ff", "\"ab\""),
        ("a26161 01 61629f f5ff", "{\"a\":1,\"b\":[true]}"),
        ("a2 0a 01 20 02", "{\"10\":1,\"-1\":2}"),
    ] {
        assert_eq!(json_of(60, cbor), Ok(json.to_owned()), "{cbor}");
    }
}

#[test]
fn json_becomes_cbor_in_the_shortest_form_that_loses_nothing() {
    for (json, cbor) in [
        ("0", "00"),
        ("-1", "20"),
        (" 24 ", "1818"),
        ("18446744073709551615", "1bffffffffffffffff"),
        ("-18446744073709551616", "3bffffffffffffffff"),
        ("18446744073709551616", "c249010000000000000000"),
        ("1.5", "f93e00"),
        ("1.0", "f93c00"),
        ("-0", "f98000"),
        ("1e2", "f95640"),
        ("100000.5", "fa47c35040"),
        ("0.1", "fb3fb999999999999a"),
        ("\"\\u00fc\"", "62c3bc"),
        ("[1,[2,null]]", "8201 8202f6"),
        ("{\"b\":true,\"a\":{}}", "a26162f56161a0"),
    ] {
        assert_eq!(cbor_of(50, json), Ok(cbor.replace(' ', "")), "{json}");
    }
}

#[test]
fn what_would_not_come_back_as_it_was_is_refused() {
    for (cbor, why) in [
        ("a2 01 00 6131 00", "two keys of a map have one name"),
        ("a2 6161 00 6161 00", "two keys of a map have one name"),
        ("a1 8001", "a key of a map is neither text nor an integer"),
        ("0102", "there is more than one CBOR item"),
        ("1a00", "the payload is not CBOR"),
        ("61ff", "the payload is not CBOR"),
        ("c4820080", "a decimal fraction is not of two integers"),
    ] {
        assert_eq!(json_of(60, cbor), Err(why), "{cbor}");
    }
    for (json, why) in [
        ("{\"a\":1,\"a\":1}", "an object has one name twice"),
        ("{\"a\":1,\"\\u0061\":1}", "an object has one name twice"),
        ("1e400", "a number is too large"),
        (
            "999999999999999999999999999999999999999999",
            "a number is too large",
        ),
        ("01", "the payload is not JSON"),
        ("[1,]", "the payload is not JSON"),
        ("1 2", "the payload is not JSON"),
    ] {
        assert_eq!(cbor_of(50, json), Err(why), "{json}");
    }
}

#[test]
fn depth_and_size_are_bounded_both_ways() {
    let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(cbor_of(50, &arrays(MAX_DEPTH)).is_ok());
    assert_eq!(
        cbor_of(50, &arrays(MAX_DEPTH + 1)),
        Err("the data is nested too deep")
    );
    assert!(cbor_of(50, &arrays(MAX_PAYLOAD / 2)).is_err());
    assert!(json_of(60, &format!("{}80", "81".repeat(MAX_DEPTH - 2))).is_ok());
    assert_eq!(
        json_of(60, &format!("{}80", "81".repeat(MAX_DEPTH + 1))),
        Err("the data is nested too deep")
    );
    assert_eq!(
        json_of(60, &format!("5a00010000{}", "00".repeat(MAX_PAYLOAD))),
        Err("the payload is too long to be translated")
    );
    for claimed in ["9bffffffffffffffff", "bbffffffffffffffff", "5bffffffffffffffff"] {
        assert_eq!(json_of(60, claimed), Err("the payload is not CBOR"));
    }
}

/// RFC 8428, 5.1.2 and 6, and a data value.
#[test]
fn packs_of_senml_have_labels_in_cbor_and_names_in_json() {
    let json = "[{\"bn\":\"urn:dev:ow:10e2073a0108006:\",\"bt\":1276020076.5,\"bu\":\"A\",\"bver\":5,\"n\":\"voltage\",\"u\":\"V\",\"v\":120.1},\
                {\"n\":\"on\",\"t\":-5,\"vb\":true},{\"n\":\"raw\",\"vd\":\"_-4\",\"ut\":60},{\"n\":\"s\",\"vs\":\"x\",\"s\":2,\"x_\":[1]}]";
    let cbor = cbor_of(110, json).unwrap();
    let item = hex::decode(&cbor).unwrap();
    let pack = whole(&item).into_array().unwrap();
    let raw = pack[2].as_map().unwrap();
    assert_eq!(raw[1], (Value::from(8), Value::Bytes(vec![0xFF, 0xEE])));
    let first = pack[0].as_map().unwrap();
    assert_eq!(first[3], (Value::from(-1), Value::from(5)));
    assert_eq!(json_of(112, &cbor).as_deref(), Ok(json));
    assert_eq!(json_of(113, &cbor).as_deref(), Ok(json));
    // [{0: "t", 2: 273.15 as a decimal fraction}]
    let json = "[{\"n\":\"t\",\"v\":27315e-2}]";
    assert_eq!(
        json_of(112, "81 a2 00 6174 02 c482 21 196ab3").as_deref(),
        Ok(json)
    );
}

fn whole(payload: &[u8]) -> Value {
    cbor(payload).unwrap()
}

#[test]
fn what_is_no_pack_is_refused() {
    for json in ["{\"n\":\"a\"}", "[]", "[1]", "7"] {
        assert_eq!(
            cbor_of(110, json),
            Err("a SenML pack is an array of records"),
            "{json}"
        );
    }
    for json in ["[{\"v\":\"1\"}]", "[{\"n\":1}]", "[{\"vb\":0}]", "[{\"vd\":5}]"] {
        assert_eq!(
            cbor_of(110, json),
            Err("a field of a SenML record has another type than its label"),
            "{json}"
        );
    }
    assert_eq!(
        cbor_of(110, "[{\"vd\":\"?\"}]"),
        Err("a data value is not base64url")
    );
    assert_eq!(json_of(112, "81a1181e01"), Err("a label of SenML is unknown"));
    assert_eq!(
        json_of(112, "81a102f97e00"),
        Err("a field of a SenML record has another type than its label")
    );
}

const WALL: u64 = 1_800_000_000;

fn rule(publish: Option<Encoding>, batch: Batch) -> Translation {
    Translation {
        topics: TopicFilter::new("#").unwrap(),
        publish,
        observe: None,
        untyped: None,
        unfit: Unfit::Refuse,
        batch,
    }
}

fn texts((payloads, format): (Vec<Bytes>, u16)) -> (Vec<String>, u16) {
    let text = |payload: Bytes| String::from_utf8(payload.to_vec()).unwrap();
    (payloads.into_iter().map(text).collect(), format)
}

#[test]
fn a_publish_takes_the_encoding_of_the_rule_and_else_stays_what_it_is() {
    let to_json = rule(Some(Encoding::Json), Batch::Whole);
    let published = to_json.published(Some(60), b"\x82\x01\x02", WALL).unwrap();
    assert_eq!(published.map(texts), Some((vec!["[1,2]".to_owned()], 50)));
    for (format, payload) in [
        (Some(50), &b"not looked at"[..]),
        (Some(0), b"\x01"),
        (Some(42), b"\x01"),
        (None, b"\x01"),
        (Some(60), b""),
    ] {
        assert_eq!(to_json.published(format, payload, WALL), Ok(None), "{format:?}");
    }
    let to_cbor = rule(Some(Encoding::Cbor), Batch::Whole);
    assert_eq!(
        to_cbor.published(Some(110), b"[{\"n\":\"a\",\"v\":1}]", WALL),
        Ok(Some((
            vec![Bytes::from_static(b"\x81\xa2\x00\x61a\x02\x01")],
            112
        )))
    );
    assert!(to_json.published(Some(60), b"\x82\x01", WALL).is_err());
}

#[test]
fn a_batch_becomes_one_message_for_each_element() {
    let each = rule(Some(Encoding::Json), Batch::Each);
    let published = each.published(Some(60), b"\x83\x01\x81\x02\xf6", WALL).unwrap();
    assert_eq!(
        published.map(texts),
        Some((vec!["1".to_owned(), "[2]".to_owned(), "null".to_owned()], 50))
    );
    let published = each.published(Some(50), b"[ 1.0 , {\"a\": 2} ]", WALL).unwrap();
    assert_eq!(
        published.map(texts),
        Some((vec!["1.0".to_owned(), "{\"a\":2}".to_owned()], 50))
    );
    assert_eq!(each.published(Some(50), b"{\"a\":2}", WALL), Ok(None));
    assert!(each.published(Some(60), b"\x80", WALL).is_err());
    let many = format!("[{}1]", "1,".repeat(MAX_BATCH));
    assert_eq!(
        each.published(Some(50), many.as_bytes(), WALL),
        Err(NotTranslated("the batch has too many messages"))
    );
}

#[test]
fn records_of_a_split_pack_stand_alone() {
    let each = rule(Some(Encoding::Json), Batch::Each);
    let pack = "[{\"bn\":\"urn:a:\",\"bt\":1700001000,\"bu\":\"Cel\"},{\"n\":\"in\",\"v\":20.5},\
                {\"n\":\"out\",\"t\":-60,\"u\":\"K\",\"v\":280,\"bv\":3},{\"n\":\"door\",\"vb\":false},{\"n\":\"sum\",\"s\":7}]";
    let published = each.published(Some(110), pack.as_bytes(), WALL).unwrap();
    let wanted = [
        "[{\"n\":\"urn:a:in\",\"u\":\"Cel\",\"v\":20.5,\"t\":1700001000}]",
        "[{\"n\":\"urn:a:out\",\"u\":\"K\",\"v\":283,\"t\":1700000940}]",
        "[{\"n\":\"urn:a:door\",\"u\":\"Cel\",\"t\":1700001000,\"vb\":false}]",
        "[{\"n\":\"urn:a:sum\",\"u\":\"Cel\",\"s\":7,\"t\":1700001000}]",
    ];
    assert_eq!(
        published.map(texts),
        Some((wanted.map(str::to_owned).to_vec(), 110))
    );
    assert!(each.published(Some(110), b"[{\"v\":1}]", WALL).is_err());
}

#[test]
fn bases_count_where_a_record_has_nothing_and_times_become_those_of_the_clock() {
    let each = rule(Some(Encoding::Json), Batch::Each);
    let pack = "[{\"bn\":\"m/\",\"bs\":1000,\"bv\":20,\"n\":\"e\",\"v\":5},{\"n\":\"a\",\"t\":-60},{\"n\":\"s\",\"s\":7,\"t\":1.5}]";
    let published = each.published(Some(110), pack.as_bytes(), WALL).unwrap();
    let wanted = [
        "[{\"n\":\"m/e\",\"v\":25,\"s\":1000}]",
        "[{\"n\":\"m/a\",\"v\":20,\"s\":1000,\"t\":1799999940}]",
        "[{\"n\":\"m/s\",\"s\":1007,\"t\":1800000001.5}]",
    ];
    assert_eq!(
        published.map(texts),
        Some((wanted.map(str::to_owned).to_vec(), 110))
    );
}

#[test]
fn a_base_name_that_every_record_repeats_makes_no_flood() {
    let each = rule(Some(Encoding::Json), Batch::Each);
    let pack = |name: &str| {
        format!(
            "[{{\"bn\":\"{name}\",\"v\":1}}{}]",
            ",{\"v\":2}".repeat(MAX_BATCH - 1)
        )
    };
    for name in [
        "\\u0000".repeat(2_000),
        "x".repeat(10_000),
        "-x".to_owned(),
        "x y".to_owned(),
    ] {
        assert!(each.published(Some(110), pack(&name).as_bytes(), WALL).is_err());
    }
    assert!(
        each.published(Some(110), pack("m/1:a_b.c-d").as_bytes(), WALL)
            .is_ok()
    );
}

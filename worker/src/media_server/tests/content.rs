//! What is given out, byte by byte.

use longwatch_testing::s3::{BUCKET, S3};
use mp4_atom::{Any, Decode, DecodeMaybe};
use reqwest::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
};

use super::*;
use crate::archive::layout::UPLOADED;
use crate::archive::s3;
use crate::fmp4::retime::Header;
use crate::fmp4::scan::box_header;

const PARTS: [Part; 3] = [Part::Init, Part::Media, Part::File];

/// Where the boxes of a file that are in no other are.
fn boxes(file: &[u8]) -> Vec<([u8; 4], std::ops::Range<usize>)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < file.len() {
        let header = box_header(&file[at..]).unwrap();
        let end = at + usize::try_from(header.bytes).unwrap();
        found.push((header.kind, at..end));
        at = end;
    }
    found
}

/// The media, made without the server: where it begins, and what it is.
fn media_of(file: &[u8]) -> (usize, Vec<u8>) {
    let header = Header::read(file).unwrap();
    let (shifts, begins) = (header.shifts(START).unwrap(), usize::try_from(header.bytes).unwrap());
    let mut media = file[begins..].to_vec();
    for (kind, range) in boxes(file) {
        if &kind == b"moof" {
            shifts.apply(&mut media[range.start - begins..range.end - begins]).unwrap();
        }
    }
    (begins, media)
}

#[tokio::test]
async fn each_part_is_what_it_should_be() {
    let given = Given::new();
    let (begins, media) = media_of(&given.file);
    assert_eq!(given.whole(Part::File).await, given.file);
    assert_eq!(given.whole(Part::Init).await, given.file[..begins]);
    assert_eq!(given.whole(Part::Media).await, media);
    assert_ne!(media, given.file[begins..], "its times are others");
    for (part, length) in PARTS.into_iter().zip([begins, media.len(), given.file.len()]) {
        let answer = given.answer(&given.address(part)).await;
        let headers = answer.headers();
        assert_eq!(header(headers, CONTENT_TYPE), "video/mp4");
        assert_eq!(header(headers, CONTENT_LENGTH), length.to_string());
        assert_eq!(header(headers, ACCEPT_RANGES), "bytes");
        // Until 90 s later, in whole seconds.
        assert_eq!(header(headers, CACHE_CONTROL), "private, max-age=89, immutable");
    }
}

#[tokio::test]
async fn header_and_media_together_are_one_file_on_the_time_line_of_the_camera() {
    let given = Given::new();
    let mut file = given.whole(Part::Init).await;
    file.extend(given.whole(Part::Media).await);
    let (mut rest, mut kinds, mut times) = (file.as_slice(), Vec::new(), Vec::new());
    while let Some(atom) = Any::decode_maybe(&mut rest).unwrap() {
        kinds.push(atom.kind().to_string());
        if let Any::Moof(moof) = atom {
            let time = |traf: &mp4_atom::Traf| {
                (traf.tfhd.track_id, traf.tfdt.as_ref().unwrap().base_media_decode_time)
            };
            times.extend(moof.traf.iter().map(time));
        }
    }
    assert!(rest.is_empty());
    let fragments = ["moof", "mdat"].repeat(4);
    assert_eq!(kinds, [&["ftyp", "moov", "prft"][..], &fragments[..]].concat());
    // 1795420800.123456 s, in 90 kHz and in 8 kHz, to the nearest.
    let expected = (0..4).flat_map(|second| {
        [(1, 161_587_872_011_111 + second * 90_000), (2, 14_363_366_400_988 + second * 8_000)]
    });
    assert_eq!(times, expected.collect::<Vec<_>>());
    let moov = mp4_atom::Moov::decode(&mut &file[boxes(&file)[1].1.clone()]).unwrap();
    assert_eq!(moov.trak.len(), 2);
}

#[tokio::test]
async fn only_fragments_that_begin_before_the_end_are_given_out() {
    let given = Given::new();
    let (begins, media) = media_of(&given.file);
    let fragments: Vec<_> =
        boxes(&given.file).into_iter().filter(|(kind, _)| kind == b"moof").map(|(_, at)| at.start).collect();
    for (until_ms, end) in [
        (-1, fragments[0]),
        (0, fragments[0]),
        (1, fragments[1]),
        (2_000, fragments[2]),
        (2_001, fragments[3]),
        (3_000, fragments[3]),
        (3_001, given.file.len()),
        (99_000, given.file.len()),
    ] {
        let until = Some(START.plus_millis(until_ms));
        let address = key(1).sign(&Ticket { until, ..given.ticket(Part::Media) });
        let answer = given.answer(&address).await;
        assert_eq!(header(answer.headers(), CONTENT_LENGTH), (end - begins).to_string(), "{until_ms}");
        assert_eq!(answer.bytes().await.unwrap(), media[..end - begins], "{until_ms}");
        let last = given.get(&address).header(RANGE, "bytes=-1").send().await.unwrap();
        assert_eq!(last.bytes().await.unwrap(), media[end - begins - 1..end - begins], "{until_ms}");
    }
}

#[tokio::test]
async fn a_range_is_that_slice_of_the_whole() {
    let given = Given::new();
    for part in PARTS {
        let whole = given.whole(part).await;
        // Around all borders of boxes, and anywhere.
        let mut borders = vec![0, whole.len()];
        if part == Part::Media {
            let begins = given.file.len() - whole.len();
            let moofs = boxes(&given.file).into_iter().map(|(_, at)| at.start).filter(|at| *at >= begins);
            borders.extend(moofs.flat_map(|at| [at, at + 1, at + 9, at + 40].map(|at| at - begins)));
        }
        let mut random = 1_usize;
        borders.extend((0..20).map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % whole.len()
        }));
        borders.sort_unstable();
        borders.dedup();
        let mut together = Vec::new();
        for (from, to) in borders.iter().zip(&borders[1..]) {
            let answer = given.range(part, &format!("bytes={from}-{}", to - 1)).await;
            assert_eq!(answer.status(), 206);
            let expected = format!("bytes {from}-{}/{}", to - 1, whole.len());
            assert_eq!(header(answer.headers(), CONTENT_RANGE), expected);
            assert_eq!(header(answer.headers(), CONTENT_LENGTH), (to - from).to_string());
            together.extend(answer.bytes().await.unwrap());
        }
        assert!(together == whole, "{part:?}");
        let end = given.range(part, "bytes=-7").await.bytes().await.unwrap();
        assert_eq!(end, whole[whole.len() - 7..]);
    }
}

#[tokio::test]
async fn a_range_that_is_not_there_is_refused_and_one_that_is_not_understood_ignored() {
    let given = Given::new();
    let length = given.file.len();
    let answer = given.range(Part::File, &format!("bytes={length}-")).await;
    assert_eq!(header(answer.headers(), CONTENT_RANGE), format!("bytes */{length}"));
    assert_eq!(problem(answer).await.0, 416);
    for range in ["bytes=5-2", "bytes=0-1,4-5", "frames=0-1"] {
        let answer = given.range(Part::File, range).await;
        assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, length), "{range}");
    }
}

#[tokio::test]
async fn who_has_it_already_is_told_so() {
    let given = Given::new();
    let tag_of = async |address: &str| header(given.answer(address).await.headers(), ETAG).to_owned();
    let ask = async |part, name: HeaderName, value: &str| {
        let request = given.get(&given.address(part)).header(name, value).header(RANGE, "bytes=0-3");
        request.send().await.unwrap().status().as_u16()
    };
    let tag = tag_of(&given.address(Part::Media)).await;
    assert!(tag.starts_with('"') && tag.len() == 66, "{tag}");
    // Given a later address of the same, then the tag is the same; of anything else it is not.
    let later = Ticket { expires: NOW.plus_millis(500_000), ..given.ticket(Part::Media) };
    assert_eq!(tag_of(&key(1).sign(&later)).await, tag);
    let moved = Ticket { start: START.plus_micros(12), ..given.ticket(Part::Media) };
    for other in [given.address(Part::File), given.address(Part::Init), key(1).sign(&moved)] {
        assert_ne!(tag_of(&other).await, tag);
    }
    let (several, weak) = (format!("\"x\", {tag}"), format!("W/{tag}"));
    for known in [&tag, &several, &weak, "*"] {
        assert_eq!(ask(Part::Media, IF_NONE_MATCH, known).await, 304, "{known}");
    }
    assert_eq!(ask(Part::Media, IF_NONE_MATCH, "\"x\"").await, 206);
    assert_eq!(ask(Part::File, IF_NONE_MATCH, &tag).await, 206);
    // A range of what somebody has a part of, and of what is another one by now.
    assert_eq!(ask(Part::Media, IF_RANGE, &tag).await, 206);
    assert_eq!(ask(Part::Media, IF_RANGE, &weak).await, 200);
    assert_eq!(ask(Part::File, IF_RANGE, &tag).await, 200);
}

#[tokio::test]
async fn a_damaged_segment_is_given_out_as_a_file_only() {
    let given = Given::new();
    std::fs::write(given.path(), b"not a segment at all").unwrap();
    for part in [Part::Init, Part::Media] {
        let (status, detail) = problem(given.answer(&given.address(part)).await).await;
        assert_eq!(status, 500);
        assert!(detail.contains("damaged"), "{detail}");
    }
    assert_eq!(given.whole(Part::File).await, b"not a segment at all");
    // Given one that is damaged behind its header, then the answer ends and is not taken for whole.
    let mut file = given.file.clone();
    let third = boxes(&file).into_iter().filter(|(kind, _)| kind == b"moof").nth(2).unwrap().1;
    file[third.start + 28..third.end].fill(0);
    std::fs::write(given.path(), &file).unwrap();
    let answer = given.answer(&given.address(Part::Media)).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err());
}

fn bucket(s3: &S3) -> Bucket {
    let settings = s3::Settings {
        bucket: BUCKET.to_owned(),
        prefix: "site".to_owned(),
        endpoint: Some(s3.endpoint()),
        region: None,
        credentials_file: Some(s3.credentials_file()),
        allow_http: true,
        concurrency: 1,
        max_bytes_per_second: None,
        retention_every: None,
    };
    Bucket::open(&settings).unwrap()
}

#[tokio::test]
async fn a_segment_is_found_wherever_it_is_on_its_way_to_the_object_store() {
    let s3 = S3::start();
    let given = Given::serving(segment(40_000), Limits::with(None), Some(bucket(&s3)));
    let (begins, media) = media_of(&given.file);
    // Given it was put there, and its file still stands by the name of what was uploaded …
    std::fs::rename(given.path(), given.folder.path().join(format!("{}{UPLOADED}", given.name.key())))
        .unwrap();
    assert_eq!(given.whole(Part::Media).await, media);
    // … and then it is gone: it comes from there.
    std::fs::remove_dir_all(given.path().parent().unwrap()).unwrap();
    assert_eq!(given.answer(&given.address(Part::File)).await.status(), 404, "nobody put it there");
    s3.put(&format!("site/{}", given.name.key()), &given.file);
    assert!(given.whole(Part::File).await == given.file);
    assert_eq!(given.whole(Part::Init).await, given.file[..begins]);
    assert!(given.whole(Part::Media).await == media);
    for from in [0, 1, begins, 70_000, media.len() / 2, media.len() - 1] {
        let answer = given.range(Part::Media, &format!("bytes={from}-")).await;
        assert_eq!(answer.status(), 206);
        assert!(answer.bytes().await.unwrap() == media[from..], "{from}");
    }
    let until = Some(START.plus_millis(2_000));
    let answer = given.answer(&key(1).sign(&Ticket { until, ..given.ticket(Part::Media) })).await;
    let third = boxes(&given.file).into_iter().filter(|(kind, _)| kind == b"moof").nth(2).unwrap().1;
    assert!(answer.bytes().await.unwrap() == media[..third.start - begins]);
}

//! Pickles, and files of torch's, written by hand.

use std::io::Write as _;
use std::path::Path;

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

/// A pickle of protocol 2 of one value.
pub(crate) fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", u32::try_from(text.len()).unwrap().to_le_bytes().as_slice(), text.as_bytes()].concat()
}

pub(crate) fn int(number: u64) -> Vec<u8> {
    [b"\x8a\x09".as_slice(), &number.to_le_bytes(), b"\0"].concat()
}

pub(crate) fn float(number: f64) -> Vec<u8> {
    [b"G".as_slice(), &number.to_be_bytes()].concat()
}

pub(crate) fn none() -> Vec<u8> {
    b"N".to_vec()
}

pub(crate) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", items.concat().as_slice(), b"t"].concat()
}

pub(crate) fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", items.concat().as_slice(), b"e"].concat()
}

pub(crate) fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<Vec<u8>> =
        entries.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", entries.concat().as_slice(), b"u"].concat()
}

/// A call, as a pickle asks for it.
pub(crate) fn call(module: &str, name: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    [format!("c{module}\n{name}\n").as_bytes(), &tuple(arguments), b"R"].concat()
}

/// A tensor of floats in the storage with a key.
pub(crate) fn tensor(key: &str, offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let numbers = |all: &[u64]| tuple(&all.iter().map(|number| int(*number)).collect::<Vec<_>>());
    let kind = b"ctorch\nFloatStorage\n".to_vec();
    let storage = [tuple(&[text("storage"), kind, text(key), text("cpu"), int(0)]), b"Q".to_vec()].concat();
    let hooks = call("collections", "OrderedDict", &[]);
    let arguments = [storage, int(offset), numbers(shape), numbers(strides), b"\x89".to_vec(), hooks];
    call("torch._utils", "_rebuild_tensor_v2", &arguments)
}

/// What `torch.save` makes of a pickle and storages of floats.
pub(crate) fn torch(value: &[u8], storages: &[(&str, &[f32])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).unwrap();
    archive.write_all(&pickle(value)).unwrap();
    for (key, numbers) in storages {
        archive.start_file(format!("archive/data/{key}"), stored).unwrap();
        archive
            .write_all(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
            .unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// A checkpoint of AdaptDL's, of a small model after some epochs.
pub(crate) fn adaptdl(directory: &Path, epochs: u8, weights: &[f32; 6]) {
    std::fs::create_dir_all(directory).unwrap();
    let write = |name: &str, contents: &[u8]| std::fs::write(directory.join(name), contents).unwrap();
    let progress = f64::from(epochs) * 20.5;
    write(".adaptdl-epoch", &pickle(&[b'K', epochs]));
    let position = tuple(&[int(40), int(0), b"}K\0K\0s".to_vec()]);
    write("adaptdl-dataloader-epochNone-0", &pickle(&position));
    let parameters = call("adaptdl.goodput", "GradParams", &[float(1.25), float(4.5)]);
    let bounds = tuple(&[int(8), int(96)]);
    let profile = dict(&[("(1, 1, 8)", none())]);
    let metrics = [profile, none(), parameters, int(64), int(256), bounds, b"\x88".to_vec(), float(progress)];
    write("adaptdl-metrics", &metrics.map(|metric| pickle(&metric)).concat());

    let model = dict(&[("weight", tensor("0", 0, &[2, 2], &[2, 1])), ("bias", tensor("0", 4, &[2], &[1]))]);
    let averages = dict(&[("progress", float(progress)), ("biased", b"\x89".to_vec())]);
    let group = dict(&[("lr", float(0.05)), ("params", list(&[int(0), int(1)]))]);
    let momentum = dict(&[("momentum_buffer", tensor("1", 0, &[2, 2], &[1, 2]))]);
    let state = [b"}(K\0".to_vec(), momentum, text("gns"), averages, b"u".to_vec()].concat();
    let optimizer = dict(&[("state", state), ("param_groups", list(&[group]))]);
    let saved = tuple(&[list(&[model, optimizer, none(), none()]), float(1.0), float(1.5)]);
    write(
        "adaptdl-dataparallel",
        &torch(&saved, &[("0", weights), ("1", &[0.0, 1.0, f32::NAN, f32::INFINITY])]),
    );
}

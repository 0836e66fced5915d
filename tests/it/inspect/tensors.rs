//! Tensors, however they lie: their norms, and how two differ.

use proptest::prelude::*;
use rayconcile::inspect::{Checkpoint, Diff, Stats, TensorChange};

use super::fixtures::{dict, tensor, torch};

fn read(name: &str, contents: &[u8]) -> Checkpoint {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, contents).unwrap();
    Checkpoint::read(&path).unwrap()
}

/// A checkpoint with one tensor of 24 numbers.
fn one(shape: &[u64], strides: &[u64], offset: u64, numbers: &[f32]) -> Checkpoint {
    read("one.pt", &torch(&dict(&[("t", tensor("0", offset, shape, strides))]), &[("0", numbers)]))
}

/// The numbers of a tensor in the order of its rows.
fn rows(shape: &[u64], strides: &[u64], offset: u64, numbers: &[f32]) -> Vec<f64> {
    let mut places = vec![offset];
    for (length, stride) in shape.iter().zip(strides) {
        places =
            places.iter().flat_map(|place| (0..*length).map(move |index| place + index * stride)).collect();
    }
    places.iter().map(|place| f64::from(numbers[usize::try_from(*place).unwrap()])).collect()
}

fn numbers(diff: &Diff) -> (f64, f64, u64) {
    match diff.tensors.first().map(|tensor| &tensor.change) {
        Some(TensorChange::Numbers { difference, .. }) => {
            (difference.norm, difference.largest, difference.elements)
        }
        None => (0.0, 0.0, 0),
        other => panic!("{other:?}"),
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

proptest! {
    /// Views of every kind have the norm of their own numbers, and two are compared place by place.
    #[test]
    fn views_are_read_where_they_lie(
        shape in prop::collection::vec(0_u64..4, 0..4),
        strides in prop::array::uniform2(prop::collection::vec(0_u64..5, 3)),
        offset in 0_u64..4,
        left in prop::collection::vec(-4.0_f32..4.0, 48),
        right in prop::collection::vec(-4.0_f32..4.0, 48),
    ) {
        let [a, b] = strides.map(|strides| strides[..shape.len()].to_vec());
        let (before, after) = (one(&shape, &a, offset, &left), one(&shape, &b, offset, &right));
        let (x, y) = (rows(&shape, &a, offset, &left), rows(&shape, &b, offset, &right));
        let norm = |all: &[f64]| all.iter().map(|number| number * number).sum::<f64>().sqrt();
        prop_assert!(close(before.tensors[0].stats().unwrap().norm, norm(&x)));
        let differences: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x - y).collect();
        let (difference, largest, elements) = numbers(&before.diff(&after));
        prop_assert!(close(difference, norm(&differences)), "{difference} {}", norm(&differences));
        prop_assert_eq!(largest, differences.iter().fold(0.0_f64, |largest, one| largest.max(one.abs())));
        prop_assert_eq!(elements as usize, differences.iter().filter(|one| **one != 0.0).count());
        prop_assert!(before.diff(&before).is_empty());
    }
}

#[test]
fn what_is_no_number_is_counted_and_compared() {
    let stats = |checkpoint: &Checkpoint| checkpoint.tensors[0].stats().unwrap();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let before = one(&[5], &[1], 0, &[3.0, nan, inf, -inf, -4.0]);
    assert_eq!(stats(&before), Stats { norm: 5.0, nan: 1, inf: 2 });
    // Zeros of either sign, and whatever is no number, are alike.
    let zeros = one(&[2], &[1], 0, &[0.0, nan]);
    assert!(zeros.diff(&one(&[2], &[1], 0, &[-0.0, -nan])).is_empty());
    let after = one(&[5], &[1], 0, &[3.0, nan, inf, inf, -3.0]);
    assert_eq!(numbers(&before.diff(&after)), (1.0, 1.0, 2));
}

#[test]
fn safetensors_are_read() {
    use safetensors::Dtype;
    use safetensors::tensor::{TensorView, serialize};
    let floats: Vec<u8> = [3.0_f32, 4.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    let halves: Vec<u8> = [0x3f80_u16, 0xff80, 0x7fc0].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let views = [
        ("w", TensorView::new(Dtype::F32, vec![1, 2], &floats).unwrap()),
        ("b", TensorView::new(Dtype::BF16, vec![3], &halves).unwrap()),
    ];
    let metadata = std::collections::HashMap::from([("step".to_owned(), "7".to_owned())]);
    let contents = serialize(views, Some(metadata)).unwrap();
    let checkpoint = read("model.safetensors", &contents);
    assert_eq!(checkpoint.values, [("step".to_owned(), "7".into())]);
    let told = checkpoint.tensors.iter().map(|tensor| {
        let stats = tensor.stats().unwrap();
        (tensor.name.as_str(), tensor.dtype.name(), tensor.shape_text(), stats.norm, stats.nan, stats.inf)
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by(|a, b| a.0.cmp(b.0));
    assert_eq!(
        told,
        [
            ("b", "bfloat16".to_owned(), "[3]".to_owned(), 1.0, 1, 1),
            ("w", "float32".to_owned(), "[1, 2]".to_owned(), 5.0, 0, 0)
        ]
    );
    let cut = read("model.safetensors", &contents[..contents.len() - 1]);
    let problems = cut.tensors.iter().filter_map(|tensor| tensor.stats().err()).collect::<Vec<_>>();
    assert_eq!(problems, ["the file is cut off before its end"]);
}

//! Conversions, by the tables of ONNX's `Cast`.

use half::f16;
use kmr_model::{DType, Element, Tensor};

use super::{common::floats, one};

/// The bytes of `values` converted to `target`.
fn bytes_of<T: Element>(values: &[T], target: DType, saturate: i64) -> Vec<u8> {
    let x = Tensor::from_vec(vec![values.len()], values.to_vec());
    let result = one(25, "Cast", &[Some(x)], |n| {
        n.with_int("to", i64::from(target.number()))
            .with_int("saturate", saturate)
    });
    assert_eq!(result.dtype(), target);
    result.bytes().to_vec()
}

/// The values of bytes of type `source` as float32.
fn values_of(source: DType, bytes: &[u8]) -> Vec<f32> {
    let x = Tensor::new(source, vec![bytes.len()], bytes.to_vec().into()).unwrap();
    let result = one(25, "Cast", &[Some(x)], |n| n.with_int("to", 1));
    result.values::<f32>().unwrap().into_owned()
}

#[test]
fn eight_bit_floats_saturate_or_do_not() {
    let values = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9, -1e9];
    let table: [(DType, [u8; 7], [u8; 7]); 4] = [
        (
            DType::FLOAT8E4M3FN,
            [0x00, 0x80, 0x7f, 0x7e, 0xfe, 0x7e, 0xfe],
            [0x00, 0x80, 0x7f, 0x7f, 0xff, 0x7f, 0xff],
        ),
        (
            DType::FLOAT8E4M3FNUZ,
            [0x00, 0x00, 0x80, 0x7f, 0xff, 0x7f, 0xff],
            [0x00, 0x00, 0x80, 0x80, 0x80, 0x80, 0x80],
        ),
        (
            DType::FLOAT8E5M2,
            [0x00, 0x80, 0x7e, 0x7b, 0xfb, 0x7b, 0xfb],
            [0x00, 0x80, 0x7e, 0x7c, 0xfc, 0x7c, 0xfc],
        ),
        (
            DType::FLOAT8E5M2FNUZ,
            [0x00, 0x00, 0x80, 0x7f, 0xff, 0x7f, 0xff],
            [0x00, 0x00, 0x80, 0x80, 0x80, 0x80, 0x80],
        ),
    ];
    for (target, saturated, special) in table {
        assert_eq!(bytes_of(&values, target, 1), saturated, "{target}");
        assert_eq!(bytes_of(&values, target, 0), special, "{target}");
    }
}

#[test]
fn narrow_floats_round_to_even() {
    // 16 and 18 are neighbors, and so are 18 and 20; the least value is 2^-9.
    let least = 1.0 / 512.0;
    let values = [17.0, 19.0, 17.5, least / 2.0, least * 1.5, -least, 448.0, 464.0];
    let codes = bytes_of(&values, DType::FLOAT8E4M3FN, 1);
    assert_eq!(
        values_of(DType::FLOAT8E4M3FN, &codes),
        [16.0, 20.0, 18.0, 0.0, 2.0 * least, -least, 448.0, 448.0]
    );
    // A float64 is rounded once: what is beyond float32 still breaks the tie.
    let tie = 1.0 + 1.0 / 2048.0;
    let codes = bytes_of(&[tie, tie + 1e-12, 65_519.9, 65_520.0], DType::FLOAT16, 1);
    let halves: Vec<f16> = codes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&b| f16::from_le_bytes(b))
        .collect();
    assert_eq!(halves.map_f32(), [1.0, 1.0 + 1.0 / 1024.0, 65_504.0, f32::INFINITY]);
}

trait Widened {
    fn map_f32(&self) -> Vec<f32>;
}

impl Widened for Vec<f16> {
    fn map_f32(&self) -> Vec<f32> {
        self.iter().map(|half| half.to_f32()).collect()
    }
}

#[test]
fn every_code_survives_a_round_trip() {
    for source in [
        DType::FLOAT8E4M3FN,
        DType::FLOAT8E4M3FNUZ,
        DType::FLOAT8E5M2,
        DType::FLOAT8E5M2FNUZ,
        DType::FLOAT8E8M0,
    ] {
        let codes: Vec<u8> = (0..=255).collect();
        let values = values_of(source, &codes);
        let again = bytes_of(&values, source, 0);
        for (code, (value, again)) in codes.iter().zip(values.iter().zip(again)) {
            assert!(
                value.is_nan() || *code == again,
                "{source} {code:#x} is {value}, which is {again:#x}"
            );
        }
        let numbers = values.iter().filter(|value| !value.is_nan()).count();
        let expected = match source {
            DType::FLOAT8E4M3FN => 254,
            DType::FLOAT8E5M2 => 250,
            _ => 255,
        };
        assert_eq!(numbers, expected, "{source}");
    }
}

#[test]
fn scales_round_as_they_are_told() {
    let values = [1.0, 1.25, 1.5, 3.0, f32::NAN, f32::INFINITY, 0.0];
    let codes = |mode: &str, saturate: i64| {
        let result = one(25, "Cast", &[Some(floats(&[7], &values))], |n| {
            n.with_int("to", 24)
                .with_string("round_mode", mode)
                .with_int("saturate", saturate)
        });
        result.bytes().to_vec()
    };
    assert_eq!(codes("up", 1), [127, 128, 128, 129, 255, 254, 0]);
    assert_eq!(codes("down", 1), [127, 127, 127, 128, 255, 254, 0]);
    assert_eq!(codes("nearest", 0), [127, 127, 128, 129, 255, 255, 255]);
}

#[test]
fn integers_lose_their_high_bits() {
    assert_eq!(bytes_of(&[200_i16, -1, 256], DType::INT8, 1), [200, 255, 0]);
    // Two to a byte, and four; the low bits first.
    assert_eq!(bytes_of(&[1_i32, -8, 7], DType::INT4, 1), [0x81, 0x07]);
    assert_eq!(bytes_of(&[1_i32, -2, 0, -1, 1], DType::INT2, 1), [0b1100_1001, 0b01]);
    assert_eq!(values_of(DType::FLOAT8E8M0, &[127, 130]), [1.0, 8.0]);
    let packed = Tensor::new(DType::INT4, vec![3], vec![0x81_u8, 0x07].into()).unwrap();
    let wide = one(25, "Cast", &[Some(packed)], |n| n.with_int("to", 7));
    assert_eq!(wide.to_i64().unwrap(), [1, -8, 7]);
    let large = Tensor::from_vec(vec![2], vec![u64::MAX, 1 << 63]);
    let wide = one(25, "Cast", &[Some(large)], |n| n.with_int("to", 11));
    assert_eq!(
        wide.values::<f64>().unwrap()[..],
        [18_446_744_073_709_551_615.0, 9_223_372_036_854_775_808.0]
    );
    let truths = one(25, "Cast", &[Some(floats(&[3], &[0.0, f32::NAN, -0.5]))], |n| {
        n.with_int("to", 9)
    });
    assert_eq!(truths.bytes()[..], [0, 1, 1]);
}

#[test]
fn bits_stay_under_another_type() {
    let bits = one(26, "BitCast", &[Some(floats(&[1], &[1.0]))], |n| n.with_int("to", 12));
    assert_eq!(bits.values::<u32>().unwrap()[..], [0x3f80_0000]);
}

//! Convolutional networks.

use kmr_model::{DType, Node, Tensor};

use super::{Network, builder::Net};

pub fn networks() -> Vec<Network> {
    vec![
        mobile(),
        dense(),
        unet(),
        upsampling(),
        shuffle_in_groups(),
        shuffle_of_halves(),
        resnext(),
        group_norm_spelled(),
        group_norm(),
        instance_norm(),
        slices(),
        literal_shapes(),
        old(),
        in_constants(),
        shared(),
        one_dimension(),
        three_dimensions(),
        pixel_shuffle("pixel_shuffle", "CRD"),
        pixel_shuffle("pixel_shuffle_depth_first", "DCR"),
        pixel_shuffle_spelled(),
        odd_products(),
        detector(),
        quantized_weights(),
        integers(),
        mixing(),
        odds_and_ends(),
    ]
}

/// Depthwise convolutions, squeeze and excite, hard activations, a residual.
fn mobile() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 3, 8, 8]);
    let x = net.conv(&x, &[6, 3, 3, 3], 1);
    let x = net.batch_norm(&x, 6);
    let stem = net.op("HardSwish", &[&x]);
    let y = net.conv(&stem, &[10, 6, 1, 1], 1);
    let y = net.with("Clip", &[&y, &net.floats(&[], &[0.0]), &net.floats(&[], &[6.0])], |n| n);
    let y = net.conv(&y, &[10, 1, 3, 3], 10);
    let y = net.batch_norm(&y, 10);
    let gate = net.op("GlobalAveragePool", &[&y]);
    let gate = net.conv(&gate, &[4, 10, 1, 1], 1);
    let gate = net.op("Relu", &[&gate]);
    let gate = net.conv(&gate, &[10, 4, 1, 1], 1);
    let gate = net.op("HardSigmoid", &[&gate]);
    let y = net.op("Mul", &[&y, &gate]);
    let y = net.conv(&y, &[6, 10, 1, 1], 1);
    let y = net.op("Add", &[&y, &stem]);
    // A depthwise convolution with two outputs for each channel.
    let y = net.conv(&y, &[12, 1, 3, 3], 6);
    let y = net.classify(&y, 12);
    net.network("mobile", 17, &[&y], 3)
}

fn dense() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 8, 8]);
    let mut x = net.conv(&x, &[4, 3, 3, 3], 1);
    let mut channels = 4;
    for _ in 0..3 {
        let y = net.batch_norm(&x, channels);
        let y = net.op("Relu", &[&y]);
        let y = net.conv(&y, &[6, channels, 1, 1], 1);
        let y = net.conv(&y, &[3, 6, 3, 3], 1);
        x = net.concat(&[&x, &y], 1);
        channels += 3;
    }
    let x = net.conv(&x, &[5, channels, 1, 1], 1);
    let x = net.with("AveragePool", &[&x], |n| {
        n.with_ints("kernel_shape", &[2, 2]).with_ints("strides", &[2, 2])
    });
    let y = net.classify(&x, 5);
    net.network("dense", 13, &[&y], 8)
}

fn unet() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 2, 8, 8]);
    let top = net.conv(&x, &[4, 2, 3, 3], 1);
    let top = net.op("Relu", &[&top]);
    let down = net.with("MaxPool", &[&top], |n| {
        n.with_ints("kernel_shape", &[2, 2]).with_ints("strides", &[2, 2])
    });
    let down = net.conv(&down, &[6, 4, 3, 3], 1);
    let down = net.with("LeakyRelu", &[&down], |n| n.with_float("alpha", 0.1));
    let (w, b) = (net.weight(&[6, 5, 2, 2]), net.weight(&[5]));
    let up = net.with("ConvTranspose", &[&down, &w, &b], |n| n.with_ints("strides", &[2, 2]));
    let y = net.concat(&[&up, &top], 1);
    let y = net.conv(&y, &[4, 9, 3, 3], 1);
    let y = net.op("Relu", &[&y]);
    let y = net.conv(&y, &[2, 4, 1, 1], 1);
    net.network("unet", 16, &[&y], 4)
}

/// Resize by scales and by sizes, transposed convolutions in groups, padding.
fn upsampling() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 2, 4, 4]);
    let x = net.conv(&x, &[4, 2, 3, 3], 1);
    let scales = net.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
    let x = net.with("Resize", &[&x, "", &scales], |n| n.with_string("mode", "nearest"));
    let x = net.conv(&x, &[6, 4, 3, 3], 1);
    let sizes = net.integers(&[1, 6, 12, 12]);
    let x = net.with("Resize", &[&x, "", "", &sizes], |n| n.with_string("mode", "linear"));
    let (w, b) = (net.weight(&[6, 1, 2, 2]), net.weight(&[6]));
    let x = net.with("ConvTranspose", &[&x, &w, &b], |n| n.with_int("group", 6));
    let pads = net.integers(&[0, 0, 1, 0, 0, 0, 0, 2]);
    let x = net.with("Pad", &[&x, &pads], |n| n.with_string("mode", "reflect"));
    let (w, b) = (net.weight(&[6, 4, 2, 2]), net.weight(&[8]));
    let x = net.with("ConvTranspose", &[&x, &w, &b], |n| n.with_int("group", 2));
    let y = net.classify(&x, 8);
    net.network("upsampling", 13, &[&y], 3)
}

/// The first kind of channel shuffle: between convolutions in groups.
fn shuffle_in_groups() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[8, 3, 3, 3], 1);
    let y = net.conv(&x, &[16, 4, 1, 1], 2);
    let y = net.reshape(&y, &[1, 2, 8, 4, 4]);
    let y = net.transpose(&y, &[0, 2, 1, 3, 4]);
    let y = net.reshape(&y, &[1, 16, 4, 4]);
    let y = net.conv(&y, &[16, 1, 3, 3], 16);
    let y = net.conv(&y, &[8, 8, 1, 1], 2);
    let y = net.op("Add", &[&y, &x]);
    let y = net.classify(&y, 8);
    net.network("shuffle_in_groups", 14, &[&y], 2)
}

/// The second kind: a half is carried along, and both halves are interleaved.
fn shuffle_of_halves() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let mut x = net.conv(&x, &[8, 3, 3, 3], 1);
    for _ in 0..2 {
        let halves = net.many("Split", &[&x], 2, |n| n.with_int("axis", 1));
        let y = net.conv(&halves[1], &[4, 4, 1, 1], 1);
        let y = net.conv(&y, &[4, 1, 3, 3], 4);
        let y = net.conv(&y, &[4, 4, 1, 1], 1);
        let y = net.concat(&[&halves[0], &y], 1);
        let y = net.reshape(&y, &[1, 2, 4, 4, 4]);
        let y = net.transpose(&y, &[0, 2, 1, 3, 4]);
        x = net.reshape(&y, &[1, -1, 4, 4]);
    }
    let y = net.classify(&x, 8);
    net.network("shuffle_of_halves", 13, &[&y], 4)
}

/// Many small groups: they go as a whole.
fn resnext() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[5, 3, 3, 3], 1);
    let y = net.conv(&x, &[12, 5, 1, 1], 1);
    let y = net.conv(&y, &[18, 2, 3, 3], 6);
    let y = net.op("Relu", &[&y]);
    let y = net.conv(&y, &[5, 18, 1, 1], 1);
    let y = net.op("Add", &[&x, &y]);
    let y = net.classify(&y, 5);
    net.network("resnext", 13, &[&y], 2)
}

/// As exporters write it for operator sets before 18.
fn group_norm_spelled() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 3, 4, 4]);
    let x = net.conv(&x, &[12, 3, 3, 3], 1);
    let shape = net.op("Shape", &[&x]);
    let y = net.reshape(&x, &[0, 4, -1]);
    let (ones, zeros) = (net.positive(&[4]), net.weight(&[4]));
    let y = net.op("InstanceNormalization", &[&y, &ones, &zeros]);
    let y = net.op("Reshape", &[&y, &shape]);
    let y = net.op("Mul", &[&y, &net.positive(&[12, 1, 1])]);
    let y = net.op("Add", &[&y, &net.weight(&[12, 1, 1])]);
    let y = net.classify(&y, 12);
    net.network("group_norm_spelled", 13, &[&y], 1)
}

fn group_norm() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 3, 4, 4]);
    let x = net.conv(&x, &[12, 3, 3, 3], 1);
    let (scale, bias) = (net.positive(&[12]), net.weight(&[12]));
    let y = net.with("GroupNormalization", &[&x, &scale, &bias], |n| {
        n.with_int("num_groups", 3)
    });
    let y = net.classify(&y, 12);
    net.network("group_norm", 21, &[&y], 1)
}

fn instance_norm() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 3, 4, 4]);
    let x = net.conv(&x, &[6, 3, 3, 3], 1);
    let (scale, bias) = (net.positive(&[6]), net.weight(&[6]));
    let y = net.op("InstanceNormalization", &[&x, &scale, &bias]);
    let y = net.op("PRelu", &[&y, &net.weight(&[6, 1, 1])]);
    let y = net.classify(&y, 6);
    net.network("instance_norm", 13, &[&y], 1)
}

/// Slices of the channels, in numbers and as gates.
fn slices() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[10, 3, 3, 3], 1);
    let part = |from: i64, to: i64| {
        let [from, to, axis] = [from, to, 1].map(|value| net.integers(&[value]));
        net.op("Slice", &[&x, &from, &to, &axis])
    };
    let (a, b, c) = (part(0, 4), part(4, 8), part(-2, i64::MAX));
    let gate = net.op("Sigmoid", &[&b]);
    let y = net.op("Mul", &[&a, &gate]);
    let y = net.concat(&[&y, &c, &a], 1);
    let y = net.classify(&y, 10);
    net.network("slices", 13, &[&y], 2)
}

/// Numbers of channels among computed sizes, put together as exporters do.
fn literal_shapes() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 3, 4, 4]);
    let x = net.conv(&x, &[6, 3, 3, 3], 1);
    let shape = net.op("Shape", &[&x]);
    let batch = net.with("Gather", &[&shape, &net.store(Tensor::scalar(0_i64))], |n| {
        n.with_int("axis", 0)
    });
    let batch = net.op("Unsqueeze", &[&batch, &net.integers(&[0])]);
    let (channels, rest) = (net.integers(&[6]), net.integers(&[16]));
    let target = net.concat(&[&batch, &channels, &rest], 0);
    let y = net.op("Reshape", &[&x, &target]);
    let bias = net.with("ConstantOfShape", &[&target], |node| node);
    let y = net.op("Add", &[&y, &bias]);
    let y = net.transpose(&y, &[0, 2, 1]);
    let y = net.linear(&y, 6, 3);
    net.network("literal_shapes", 13, &[&y], 1)
}

/// Operator set 8: attributes where inputs are now.
fn old() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 8, 8]);
    let x = net.conv(&x, &[6, 3, 3, 3], 1);
    let x = net.batch_norm(&x, 6);
    let x = net.with("Clip", &[&x], |n| n.with_float("min", 0.0).with_float("max", 6.0));
    let x = net.with("Pad", &[&x], |n| {
        n.with_ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1])
            .with_string("mode", "edge")
    });
    let parts = net.many("Split", &[&x], 2, |n| n.with_int("axis", 1).with_ints("split", &[4, 2]));
    let y = net.conv(&parts[0], &[5, 4, 3, 3], 1);
    let z = net.with("Slice", &[&parts[1]], |n| {
        n.with_ints("axes", &[1])
            .with_ints("starts", &[0])
            .with_ints("ends", &[2])
    });
    let y = net.concat(&[&y, &z], 1);
    let y = net.with("Dropout", &[&y], |n| n.with_float("ratio", 0.5));
    let y = net.with("MaxPool", &[&y], |n| {
        n.with_ints("kernel_shape", &[2, 2]).with_ints("strides", &[2, 2])
    });
    let y = net.reshape(&y, &[1, -1]);
    let (w, b) = (net.weight(&[7 * 25, 6]), net.weight(&[6]));
    let y = net.with("Gemm", &[&y, &w, &b], |n| {
        n.with_float("alpha", 0.5).with_float("beta", 2.0)
    });
    let y = net.with("Gemm", &[&y, &net.weight(&[6, 3]), &net.weight(&[1])], |n| n);
    net.network("old", 8, &[&y], 4)
}

fn in_constants() -> Network {
    let mut net = Net::new();
    net.constants = true;
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[5, 3, 3, 3], 1);
    let x = net.batch_norm(&x, 5);
    let x = net.op("Relu", &[&x]);
    let x = net.conv(&x, &[5, 1, 3, 3], 5);
    let bias = net.reshape(&net.weight(&[5]), &[1, 5, 1, 1]);
    let x = net.op("Add", &[&x, &bias]);
    let x = net.reshape(&x, &[1, 80]);
    let y = net.linear(&x, 80, 3);
    net.network("in_constants", 13, &[&y], 1)
}

/// One weight read by two convolutions, and a tensor read by two normalizations.
fn shared() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 4, 4, 4]);
    let weight = net.weight(&[4, 4, 3, 3]);
    let same = |n: Node| n.with_ints("pads", &[1, 1, 1, 1]);
    let y = net.conv(&x, &[4, 4, 1, 1], 1);
    let y = net.with("Conv", &[&y, &weight], same);
    let y = net.op("Relu", &[&y]);
    let y = net.with("Conv", &[&y, &weight], same);
    let wide = net.conv(&y, &[6, 4, 1, 1], 1);
    let side = net.conv(&y, &[6, 4, 1, 1], 1);
    let scale = net.positive(&[6, 1, 1]);
    let a = net.op("Mul", &[&wide, &scale]);
    let b = net.op("Mul", &[&side, &scale]);
    let y = net.concat(&[&a, &b], 1);
    let y = net.classify(&y, 12);
    net.network("shared", 13, &[&y], 2)
}

fn one_dimension() -> Network {
    let net = Net::new();
    let x = net.input("x", &[2, 3, 16]);
    let x = net.conv(&x, &[6, 3, 3], 1);
    let x = net.op("Tanh", &[&x]);
    let x = net.conv(&x, &[6, 1, 5], 6);
    let x = net.with("ReduceMean", &[&x], |n| {
        n.with_ints("axes", &[2]).with_int("keepdims", 0)
    });
    let y = net.linear(&x, 6, 3);
    net.network("one_dimension", 13, &[&y], 1)
}

fn three_dimensions() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 2, 4, 4, 4]);
    let x = net.conv(&x, &[4, 2, 3, 3, 3], 1);
    let x = net.batch_norm(&x, 4);
    let x = net.conv(&x, &[5, 4, 1, 1, 1], 1);
    let y = net.op("GlobalMaxPool", &[&x]);
    let y = net.reshape(&y, &[0, -1]);
    let y = net.linear(&y, 5, 3);
    net.network("three_dimensions", 13, &[&y], 2)
}

fn pixel_shuffle(name: &'static str, mode: &'static str) -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[12, 3, 3, 3], 1);
    let x = net.with("DepthToSpace", &[&x], |n| {
        n.with_int("blocksize", 2).with_string("mode", mode)
    });
    let x = net.conv(&x, &[4, 3, 3, 3], 1);
    let x = net.with("SpaceToDepth", &[&x], |n| n.with_int("blocksize", 2));
    let y = net.classify(&x, 16);
    net.network(name, 13, &[&y], 2)
}

fn pixel_shuffle_spelled() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[12, 3, 3, 3], 1);
    let x = net.reshape(&x, &[1, 3, 2, 2, 4, 4]);
    let x = net.transpose(&x, &[0, 1, 4, 2, 5, 3]);
    let x = net.reshape(&x, &[1, 3, 8, 8]);
    let x = net.conv(&x, &[4, 3, 3, 3], 1);
    let y = net.classify(&x, 4);
    net.network("pixel_shuffle_spelled", 13, &[&y], 2)
}

/// Gemm from both sides, a weight on the left, products of activations.
fn odd_products() -> Network {
    let net = Net::new();
    let x = net.input("x", &[4, 5]);
    let y = net.with("Gemm", &[&net.weight(&[5, 6]), &x], |n| {
        n.with_int("transA", 1).with_int("transB", 1)
    });
    // [6, 4]: rows are channels.
    let y = net.op("Relu", &[&y]);
    let y = net.op("MatMul", &[&net.weight(&[7, 6]), &y]);
    let z = net.op("Sigmoid", &[&y]);
    let turned = net.transpose(&z, &[1, 0]);
    let product = net.op("MatMul", &[&turned, &y]);
    let w = net.weight(&[2, 4, 6]);
    let batched = net.op("MatMul", &[&product, &w]);
    let y = net.op("MatMul", &[&batched, &net.weight(&[6, 2])]);
    net.network("odd_products", 13, &[&y], 3)
}

/// Heads on two levels, joined along the anchors.
fn detector() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 8, 8]);
    let fine = net.conv(&x, &[6, 3, 3, 3], 1);
    let coarse = net.with("MaxPool", &[&fine], |n| {
        n.with_ints("kernel_shape", &[2, 2]).with_ints("strides", &[2, 2])
    });
    let coarse = net.conv(&coarse, &[8, 6, 3, 3], 1);
    let head = |x: &str, channels: usize, pixels: i64| {
        let tower = net.conv(x, &[5, channels, 3, 3], 1);
        let tower = net.op("Relu", &[&tower]);
        let boxes = net.conv(&tower, &[8, 5, 1, 1], 1);
        let boxes = net.reshape(&boxes, &[1, 2, 4, pixels]);
        let boxes = net.transpose(&boxes, &[0, 3, 1, 2]);
        net.reshape(&boxes, &[1, -1, 4])
    };
    let (fine, coarse) = (head(&fine, 6, 64), head(&coarse, 8, 16));
    let y = net.concat(&[&fine, &coarse], 1);
    net.network("detector", 13, &[&y], 4)
}

/// Weights and activations through QuantizeLinear and DequantizeLinear.
fn quantized_weights() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let stored = |shape: &[usize]| {
        let noise = net.noise(shape);
        let values: Vec<i8> = noise
            .values::<f32>()
            .unwrap()
            .iter()
            .map(|v| (v * 100.0) as i8)
            .collect();
        let weight = net.store(Tensor::from_vec(shape.to_vec(), values));
        let scales: Vec<f32> = (0..shape[0]).map(|k| 0.01 + 0.001 * k as f32).collect();
        let scale = net.floats(&[shape[0]], &scales);
        let zero = net.store(Tensor::from_vec(
            vec![shape[0]],
            (0..shape[0]).map(|k| k as i8).collect(),
        ));
        net.with("DequantizeLinear", &[&weight, &scale, &zero], |n| n.with_int("axis", 0))
    };
    let pads = |n: Node| n.with_ints("pads", &[1, 1, 1, 1]);
    let y = net.with("Conv", &[&x, &stored(&[6, 3, 3, 3])], pads);
    let (scale, zero) = (net.floats(&[], &[0.05]), net.store(Tensor::scalar(7_u8)));
    let q = net.op("QuantizeLinear", &[&y, &scale, &zero]);
    let y = net.op("DequantizeLinear", &[&q, &scale, &zero]);
    let y = net.with("Conv", &[&y, &stored(&[4, 6, 3, 3])], pads);
    let y = net.classify(&y, 4);
    net.network("quantized_weights", 13, &[&y], 2)
}

/// Products of integers.
fn integers() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let bytes = |shape: &[usize]| {
        let noise = net.noise(shape);
        let values: Vec<i8> = noise
            .values::<f32>()
            .unwrap()
            .iter()
            .map(|v| (v * 100.0) as i8)
            .collect();
        net.store(Tensor::from_vec(shape.to_vec(), values))
    };
    let (scale, zero) = (net.floats(&[], &[0.02]), net.store(Tensor::scalar(120_u8)));
    let quantized = |x: &str| net.op("QuantizeLinear", &[x, &scale, &zero]);
    let weight_zero = net.store(Tensor::scalar(3_i8));
    let q = quantized(&x);
    let y = net.op("ConvInteger", &[&q, &bytes(&[5, 3, 1, 1]), &zero, &weight_zero]);
    let y = net.with("Cast", &[&y], |n| n.with_int("to", DType::FLOAT.number().into()));
    let y = net.op("Mul", &[&y, &net.floats(&[], &[0.0004])]);
    let q = quantized(&y);
    let scales = net.floats(&[4], &[0.01, 0.02, 0.03, 0.04]);
    let zeros = net.store(Tensor::from_vec(vec![4], vec![0_i8; 4]));
    let bias = net.store(Tensor::from_vec(vec![4], vec![10_i32, 20, 30, 40]));
    let weight = bytes(&[4, 5, 1, 1]);
    let q = net.op(
        "QLinearConv",
        &[&q, &scale, &zero, &weight, &scales, &zeros, &scale, &zero, &bias],
    );
    let y = net.op("DequantizeLinear", &[&q, &scale, &zero]);
    let y = net.op("GlobalAveragePool", &[&y]);
    let y = net.op("Flatten", &[&y]);
    let q = quantized(&y);
    let y = net.op("MatMulInteger", &[&q, &bytes(&[4, 6]), &zero, &weight_zero]);
    let y = net.with("Cast", &[&y], |n| n.with_int("to", DType::FLOAT.number().into()));
    let y = net.op("Mul", &[&y, &net.floats(&[], &[0.0004])]);
    let q = quantized(&y);
    let (one, none) = (net.floats(&[], &[0.01]), net.store(Tensor::scalar(0_i8)));
    let q = net.op(
        "QLinearMatMul",
        &[&q, &scale, &zero, &bytes(&[6, 3]), &one, &none, &scale, &zero],
    );
    let y = net.op("DequantizeLinear", &[&q, &scale, &zero]);
    net.network("integers", 13, &[&y], 3)
}

/// What mixes channels is refused; what comes before it is not.
fn mixing() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[6, 3, 3, 3], 1);
    let y = net.with("LRN", &[&net.conv(&x, &[5, 6, 3, 3], 1)], |n| n.with_int("size", 3));
    let z = net.with("Softmax", &[&net.conv(&x, &[5, 6, 3, 3], 1)], |n| n.with_int("axis", 1));
    let w = net.with(
        "CumSum",
        &[&net.conv(&x, &[5, 6, 1, 1], 1), &net.store(Tensor::scalar(1_i64))],
        |n| n,
    );
    let v = net.with("Einsum", &[&net.conv(&x, &[5, 6, 1, 1], 1)], |n| {
        n.with_string("equation", "nchw->nhwc")
    });
    let v = net.transpose(&v, &[0, 3, 1, 2]);
    let y = net.op("Sum", &[&y, &z, &w, &v]);
    let y = net.classify(&y, 5);
    net.network("mixing", 13, &[&y], 1)
}

/// Operators that follow channels without a word.
fn odds_and_ends() -> Network {
    let net = Net::new();
    let x = net.input("x", &[1, 3, 4, 4]);
    let x = net.conv(&x, &[6, 3, 3, 3], 1);
    let condition = net.op("Greater", &[&x, &net.weight(&[6, 1, 1])]);
    let y = net.op("Where", &[&condition, &x, &net.weight(&[1, 6, 1, 1])]);
    let y = net.op("Tile", &[&y, &net.integers(&[1, 1, 2, 1])]);
    let y = net.op("Expand", &[&net.op("GlobalMaxPool", &[&y]), &net.integers(&[6, 3, 3])]);
    let y = net.with("MeanVarianceNormalization", &[&y], |n| n.with_ints("axes", &[0, 2, 3]));
    let y = net.with("LpPool", &[&y], |n| n.with_ints("kernel_shape", &[2, 2]));
    let y = net.op("Max", &[&y, &net.weight(&[6, 1, 1])]);
    let y = net.with("ReduceL2", &[&y], |n| {
        n.with_ints("axes", &[2, 3]).with_int("keepdims", 0)
    });
    let y = net.op("Unsqueeze", &[&y, &net.integers(&[2])]);
    let y = net.op("Squeeze", &[&y, &net.integers(&[2])]);
    let y = net.with("Gemm", &[&y, &net.weight(&[6, 3])], |n| n);
    net.network("odds_and_ends", 13, &[&y], 1)
}

//! Times convolutions: `convolution [THREADS]` times the shapes of a ResNet-20; with `--serve` it reads
//! `batch in out size kernel stride` lines and answers each with milliseconds, for the comparison that
//! `onnxruntime_convolution.py` makes.

use std::{
    io::{BufRead, Write},
    time::Instant,
};

use kmr_kernels::{Convolution, Finish, Geometry, InstructionSet};

/// Shapes of a ResNet-20 at 28x28, whole and pruned: in, out, size, kernel, stride.
const SHAPES: [[usize; 5]; 9] = [
    [1, 16, 28, 3, 1],
    [16, 16, 28, 3, 1],
    [16, 32, 28, 3, 2],
    [16, 32, 28, 1, 2],
    [32, 32, 14, 3, 1],
    [32, 64, 14, 3, 2],
    [64, 64, 7, 3, 1],
    [11, 23, 28, 3, 1],
    [23, 11, 14, 3, 1],
];

fn time(batch: usize, [ins, outs, size, kernel, stride]: [usize; 5], runs: usize) -> f64 {
    let pad = kernel / 2;
    let geometry = Geometry {
        in_channels: ins,
        out_channels: outs,
        groups: 1,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        pads: [pad; 4],
    };
    let weights = vec![0.01; geometry.weights()];
    let bias = vec![0.5; outs];
    let convolution = Convolution::new(geometry, &weights, Some(&bias)).expect("the sizes fit");
    let input = vec![0.25; batch * ins * size * size];
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        let output = convolution.run(&input, batch, [size; 2], Finish::default());
        let elapsed = start.elapsed().as_secs_f64() * 1e3;
        std::hint::black_box(output).expect("the sizes fit");
        best = best.min(elapsed);
    }
    best
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(threads) = arguments.iter().find_map(|argument| argument.parse().ok()) {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .expect("the pool is built once");
    }
    if arguments.iter().any(|argument| argument == "--serve") {
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("standard input is text");
            let numbers: Vec<usize> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
            if let [batch, shape @ .., runs] = numbers.as_slice()
                && let Ok(shape) = shape.try_into()
            {
                println!("{}", time(*batch, shape, *runs));
                std::io::stdout().flush().expect("standard output is open");
            }
        }
        return;
    }
    println!(
        "{} with {} threads",
        InstructionSet::detect(),
        rayon::current_num_threads()
    );
    for shape in SHAPES {
        let [ins, outs, size, kernel, stride] = shape;
        for batch in [1, 16, 128] {
            let milliseconds = time(batch, shape, 15);
            let output = size.div_ceil(stride);
            let products = batch * ins * outs * kernel * kernel * output * output;
            println!(
                "{batch:4} x {ins:3} -> {outs:3} at {size:2}, {kernel}x{kernel} stride {stride}: {milliseconds:9.4} ms, {:6.1} G multiply-adds/s",
                products as f64 / milliseconds / 1e6
            );
        }
    }
}

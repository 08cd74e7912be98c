//! Times what a training step computes: `training [THREADS]` times the convolutions and normalizations of
//! a ResNet-20 forward and backward; with `--serve` it reads lines `operation batch in out size kernel
//! stride groups runs` and answers each with as many milliseconds, for the comparison that
//! `pytorch_training.py` makes. With `--processor-time`, times are those of the process, which other work
//! on the machine disturbs less; they mean something with one thread.

use std::{
    io::{BufRead, Write},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

use kmr_kernels::{
    BatchNormalization, Convolution, Finish, Geometry, Gradient, InstructionSet, add_relu, relu_gradient,
};

const OPERATIONS: [&str; 7] = [
    "forward",
    "input",
    "weights",
    "normalize",
    "denormalize",
    "add_relu",
    "relu_gradient",
];

/// Shapes of a ResNet-20 at 28x28, and others: in, out, size, kernel, stride, groups.
const SHAPES: [[usize; 6]; 11] = [
    [1, 16, 28, 3, 1, 1],
    [16, 16, 28, 3, 1, 1],
    [16, 32, 28, 3, 2, 1],
    [16, 32, 28, 1, 2, 1],
    [32, 32, 14, 3, 1, 1],
    [32, 64, 14, 3, 2, 1],
    [32, 64, 14, 1, 2, 1],
    [64, 64, 7, 3, 1, 1],
    [64, 64, 14, 3, 1, 64],
    [11, 23, 28, 3, 1, 1],
    [23, 11, 14, 3, 1, 1],
];

/// Whether processor time is taken instead of the time on the clock.
static PROCESSOR_TIME: AtomicBool = AtomicBool::new(false);

/// Numbers in [-1, 1].
fn noise(length: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Milliseconds of processor time that this process has taken.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// Milliseconds of each run, including what it takes to free the result.
fn measure<T>(runs: usize, mut run: impl FnMut() -> T) -> Vec<f64> {
    (0..runs)
        .map(|_| {
            let (start, processor) = (Instant::now(), processor_time());
            drop(std::hint::black_box(run()));
            if PROCESSOR_TIME.load(Relaxed) {
                processor_time() - processor
            } else {
                start.elapsed().as_secs_f64() * 1e3
            }
        })
        .collect()
}

/// Milliseconds of each run; a normalization is that of the convolution's output.
fn time(
    operation: &str,
    batch: usize,
    [ins, outs, size, kernel, stride, groups]: [usize; 6],
    runs: usize,
) -> Result<Vec<f64>, String> {
    let geometry = Geometry {
        in_channels: ins,
        out_channels: outs,
        groups,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        pads: [kernel / 2; 4],
    };
    let text = |error: kmr_kernels::GeometryError| error.to_string();
    let [height, width] = geometry.output([size; 2]).map_err(text)?;
    let plane = height * width;
    let weights = noise(geometry.weights());
    let input = noise(batch * ins * size * size);
    let cotangent = noise(batch * outs * plane);
    let output = noise(batch * outs * plane);
    let (scale, bias) = (vec![1.0; outs], vec![0.0; outs]);
    let norm = BatchNormalization {
        scale: &scale,
        bias: &bias,
        epsilon: 1e-5,
        relu: false,
    };
    let gradient = Gradient::new(geometry).map_err(text)?;
    let (_, statistics) = norm.forward(&output, None, plane).map_err(text)?;
    let size = [size; 2];
    Ok(match operation {
        "forward" => measure(runs, || {
            let convolution = Convolution::new(geometry, &weights, None)?;
            convolution.run(&input, batch, size, Finish::default())
        }),
        "input" => measure(runs, || gradient.input(&weights, &cotangent, batch, size)),
        "weights" => measure(runs, || gradient.weights(&input, &cotangent, batch, size)),
        "normalize" => measure(runs, || norm.forward(&output, None, plane)),
        "denormalize" => measure(runs, || norm.backward(&statistics, &output, &cotangent, plane)),
        "add_relu" => measure(runs, || add_relu(&output, &cotangent)),
        "relu_gradient" => measure(runs, || relu_gradient(&output, &cotangent)),
        _ => return Err(format!("no operation is called {operation}")),
    })
}

fn serve() -> Result<(), String> {
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let (operation, numbers) = line.split_once(' ').ok_or("expected an operation and numbers")?;
        let numbers: Vec<usize> = numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [batch, shape @ .., runs] = numbers.as_slice() else {
            return Err(format!("cannot read {line}"));
        };
        let shape = shape.try_into().map_err(|_| format!("cannot read {line}"))?;
        let times: Vec<String> = time(operation, *batch, shape, *runs)?
            .iter()
            .map(f64::to_string)
            .collect();
        println!("{}", times.join(" "));
        std::io::stdout().flush().map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(threads) = arguments.iter().find_map(|argument| argument.parse().ok()) {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|error| error.to_string())?;
    }
    PROCESSOR_TIME.store(arguments.iter().any(|argument| argument == "--processor-time"), Relaxed);
    if arguments.iter().any(|argument| argument == "--serve") {
        return serve();
    }
    println!(
        "{} with {} threads, batch 100",
        InstructionSet::detect(),
        rayon::current_num_threads()
    );
    for shape in SHAPES {
        let [ins, outs, size, kernel, stride, groups] = shape;
        print!("{ins:3} -> {outs:3} at {size:2}, {kernel}x{kernel} stride {stride}, {groups:2} groups:");
        for operation in OPERATIONS {
            let best = time(operation, 100, shape, 20)?
                .into_iter()
                .fold(f64::INFINITY, f64::min);
            print!(" {operation} {best:.3}");
        }
        println!(" ms");
    }
    Ok(())
}

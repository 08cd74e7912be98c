//! Times training steps: `step MODEL BATCH STEPS [--threads N]`.
//!
//! A step is a forward pass with the batch's own statistics, the derivative of a loss by every float32 tensor that
//! has one, and a step of gradient descent with momentum. `pytorch_step.py` compares it with PyTorch's.

use std::{collections::BTreeMap, time::Instant};

use kmr_compute::{BatchNorm, Engine, Feeds, Interpreter, Method, Mode, Optimizer};
use kmr_model::{DType, Dimension, Model, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [path, batch, steps, rest @ ..] = arguments.as_slice() else {
        println!("step MODEL BATCH STEPS [--threads N]");
        return Ok(());
    };
    if let [option, threads] = rest
        && option == "--threads"
    {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.parse()?)
            .build_global()?;
    }
    let (batch, steps): (usize, usize) = (batch.parse()?, steps.parse()?);
    let model = Model::decode(std::fs::read(path)?.into())?;
    let program = Interpreter.load(&model)?;
    let mut feeds = Feeds::new();
    for input in model.graph.feeds() {
        let size = |dimension: &Dimension| match dimension {
            Dimension::Fixed(size) => *size,
            _ => batch,
        };
        let shape: Vec<usize> = input.shape().unwrap_or_default().iter().map(size).collect();
        let length = shape.iter().product();
        let values = (0..length).map(|k: usize| (k * 7919 % 1000) as f32 / 1000.0).collect();
        feeds.insert(input.name().into(), Tensor::from_vec(shape, values));
    }
    // The statistics that batch normalization stores are not trained.
    let statistics: Vec<&String> = model
        .graph
        .nodes
        .iter()
        .filter(|node| node.is("BatchNormalization"))
        .flat_map(|node| &node.inputs()[3..5])
        .collect();
    let initializers = model.graph.initializers.iter();
    let mut tensors: BTreeMap<String, Tensor> = initializers
        .filter(|(name, held)| held.tensor.dtype() == DType::FLOAT && !statistics.contains(name))
        .map(|(name, held)| (name.clone(), (*held.tensor).clone()))
        .collect();
    let trainable: Vec<String> = tensors.keys().cloned().collect();
    let trainable: Vec<&str> = trainable.iter().map(String::as_str).collect();
    let method = Method::Sgd {
        momentum: 0.9,
        nesterov: true,
    };
    let mut optimizer = Optimizer::new(method, 5e-4, None);
    let mode = Mode {
        batch_norm: BatchNorm::Batch,
        ..Mode::default()
    };
    for _ in 0..steps {
        let start = Instant::now();
        let mut given = feeds.clone();
        given.extend(tensors.clone());
        let pullback = program.pullback(&given, &[], &trainable, mode)?;
        let output = &pullback.outputs()[0];
        let share = 1.0 / batch as f32;
        let cotangent = output.values::<f32>()?.iter().map(|value| value * share).collect();
        let cotangent = Tensor::from_vec(output.shape().to_vec(), cotangent);
        let gradients = pullback.pull(vec![cotangent])?;
        let gradients = gradients.into_iter();
        let gradients = gradients
            .map(|(name, gradient)| Ok((name, gradient.values::<f32>()?.into_owned())))
            .collect::<Result<BTreeMap<_, _>, kmr_model::ModelError>>()?;
        optimizer.step(&mut tensors, &gradients, 1e-4)?;
        println!("{}", start.elapsed().as_secs_f64());
    }
    Ok(())
}

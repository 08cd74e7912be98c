//! A model and the sessions that were made for questions to it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kmr_compute::{BatchNorm, ComputeError, ErrorKind, Feeds, Mode, Program, Pullback, Refusal};
use kmr_model::{Dimension, Graph, Model, Node, Tensor, ValueInfo};
use ort::{
    logging::LogLevel,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
};
use tempfile::TempDir;

use crate::{
    OnnxRuntime, Options,
    cut::{Question, cut},
    values::{give, take},
};

/// What protobuf takes in one message, and so the runtime from memory.
const LARGEST_MESSAGE: u64 = i32::MAX as u64;

/// Sessions kept at hand; each holds the weights.
const KEPT: usize = 16;

/// A model and the sessions that were made for questions to it.
pub struct Sessions {
    engine: OnnxRuntime,
    model: Model,
    open: Mutex<HashMap<Question, Arc<Mutex<Opened>>>>,
}

/// A session, and the files that it may have mapped.
pub struct Opened {
    session: Session,
    #[cfg_attr(not(test), expect(dead_code, reason = "there for as long as the session is"))]
    files: Option<TempDir>,
}

/// Locks what stays whole even if a thread panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// No session yet.
    pub fn new(engine: OnnxRuntime, model: Model) -> Self {
        Self {
            engine,
            model,
            open: Mutex::default(),
        }
    }

    /// The session that answers `question`.
    pub fn open(&self, question: &Question) -> Result<Arc<Mutex<Opened>>, ComputeError> {
        let mut open = lock(&self.open);
        if let Some(session) = open.get(question) {
            return Ok(session.clone());
        }
        let part = self.model.with_graph(cut(&self.model.graph, question)?);
        let session = Arc::new(Mutex::new(opened(&self.engine, &part, LARGEST_MESSAGE)?));
        if open.len() >= KEPT {
            open.clear();
        }
        open.insert(question.clone(), session.clone());
        Ok(session)
    }

    /// Computes the values of `question`, which no feed and no initializer is.
    fn answer(&self, feeds: &Feeds, question: &Question) -> Result<HashMap<String, Tensor>, ComputeError> {
        let opened = self.open(question)?;
        let session = &mut lock(&opened).session;
        let named = session
            .inputs()
            .iter()
            .filter_map(|input| feeds.get_key_value(input.name()));
        let inputs = named.map(|(name, tensor)| Ok((name.clone(), give(name, tensor)?)));
        let inputs = inputs.collect::<Result<Vec<_>, ComputeError>>()?;
        let outputs = session.run(inputs).map_err(|error| {
            let kind = match error.code() {
                ort::ErrorCode::NotImplemented => ErrorKind::Unsupported,
                _ => ErrorKind::Shape,
            };
            let node = blamed(&self.model, &error.to_string());
            let place = node.map(|node| format!("node `{}`", node.label())).unwrap_or_default();
            ComputeError::new(kind, place, error.to_string())
        })?;
        let taken = question.asked.iter().map(|name| {
            let value = outputs.get(name).ok_or_else(|| missing(name))?;
            Ok((name.clone(), take(name, value)?))
        });
        taken.collect()
    }
}

impl Program for Sessions {
    fn forward(&self, feeds: &Feeds, outputs: &[&str], mode: Mode) -> Result<Vec<Tensor>, ComputeError> {
        let graph = &self.model.graph;
        if mode.batch_norm == BatchNorm::Batch {
            let message = "ONNX Runtime normalizes by running statistics alone";
            return Err(ComputeError::new(ErrorKind::Unsupported, "", message)
                .with_help("use the built-in engine for statistics of the batch"));
        }
        let declared: Vec<&str> = graph.outputs.iter().map(ValueInfo::name).collect();
        let asked = if outputs.is_empty() { &declared[..] } else { outputs };
        for name in feeds.keys().map(String::as_str).chain(asked.iter().copied()) {
            if !exists(graph, name) {
                let place = format!("value `{name}`");
                return Err(ComputeError::new(
                    ErrorKind::Name,
                    place,
                    "does not exist in this model",
                ));
            }
        }
        for (name, tensor) in feeds {
            check(graph, name, tensor)?;
        }
        let known = |name: &str| feeds.get(name).or_else(|| graph.tensor(name).map(AsRef::as_ref));
        let mut question = Question {
            given: feeds
                .iter()
                .map(|(name, fed)| (name.clone(), (Some(fed.dtype()), fed.shape().len())))
                .collect(),
            asked: Vec::new(),
        };
        for name in asked.iter().filter(|name| known(name).is_none()) {
            if !question.asked.iter().any(|asked| asked == name) {
                question.asked.push((*name).to_owned());
            }
        }
        let computed = match question.asked.is_empty() {
            true => HashMap::new(),
            false => self.answer(feeds, &question)?,
        };
        let answer = |name: &&str| known(name).or_else(|| computed.get(*name)).cloned();
        asked
            .iter()
            .map(|name| answer(name).ok_or_else(|| missing(name)))
            .collect()
    }

    fn pullback(&self, _: &Feeds, _: &[&str], _: &[&str], _: Mode) -> Result<Box<dyn Pullback>, ComputeError> {
        Err(
            ComputeError::new(ErrorKind::Unsupported, "", "ONNX Runtime computes no derivatives")
                .with_help("use the built-in engine for gradients"),
        )
    }
}

fn missing(name: &str) -> ComputeError {
    ComputeError::new(ErrorKind::Internal, format!("value `{name}`"), "was not computed")
}

/// Whether the graph has a value of this name.
fn exists(graph: &Graph, name: &str) -> bool {
    graph.initializers.contains_key(name)
        || graph.inputs.iter().any(|input| input.name() == name)
        || graph
            .nodes
            .iter()
            .any(|node| node.outputs().iter().any(|output| output == name))
}

/// Refuses a fed value that is not what the graph declares of it.
fn check(graph: &Graph, name: &str, tensor: &Tensor) -> Result<(), ComputeError> {
    let Some(declared) = graph.feeds().find(|input| input.name() == name) else {
        return Ok(());
    };
    let wrong = |message| Err(ComputeError::new(ErrorKind::Shape, format!("input `{name}`"), message));
    if let Some(dtype) = declared.dtype()
        && dtype != tensor.dtype()
    {
        return wrong(format!("is declared as {dtype}; fed was {}", tensor.dtype()));
    }
    let Some(shape) = declared.shape() else {
        return Ok(());
    };
    let fits = |(want, got): (&Dimension, &usize)| !matches!(want, Dimension::Fixed(size) if size != got);
    if shape.len() != tensor.shape().len() || !shape.iter().zip(tensor.shape()).all(fits) {
        let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
        return wrong(format!(
            "is declared as [{}]; fed was {:?}",
            sizes.join(", "),
            tensor.shape()
        ));
    }
    Ok(())
}

/// A session over `model`, from files where its message would be larger than `largest`.
fn opened(engine: &OnnxRuntime, model: &Model, largest: u64) -> Result<Opened, ComputeError> {
    let refused = |error: ort::Error| {
        let message = format!("ONNX Runtime {} refuses the model: {error}", engine.version);
        match blamed(model, &message) {
            Some(node) => Refusal::new(model, node).because(message).into(),
            None => ComputeError::new(ErrorKind::Unsupported, "", message),
        }
    };
    let mut builder = builder(engine).map_err(|error| ComputeError::new(ErrorKind::Internal, "", error.to_string()))?;
    if model.encoded_len() <= largest {
        let session = builder.commit_from_memory(&model.with_external_data(None).encode_to_vec());
        return Ok(Opened {
            session: session.map_err(refused)?,
            files: None,
        });
    }
    let unwritten = |error: io::Error| {
        ComputeError::new(
            ErrorKind::Internal,
            "",
            format!("the model cannot be written for ONNX Runtime: {error}"),
        )
        .with_help("let TMPDIR name a folder with room for the model")
    };
    let folder = TempDir::with_prefix("kmr-").map_err(unwritten)?;
    write(model, &folder).map_err(unwritten)?;
    Ok(Opened {
        session: builder.commit_from_file(folder.path().join(MODEL)).map_err(refused)?,
        files: Some(folder),
    })
}

const MODEL: &str = "model.onnx";

/// Writes the model and its weights as files of their own.
fn write(model: &Model, folder: &TempDir) -> io::Result<()> {
    let files = model
        .with_external_data(Some("weights"))
        .files()
        .map_err(io::Error::other)?;
    let create = |name: &str| File::create(folder.path().join(name)).map(BufWriter::new);
    let mut writer = create(MODEL)?;
    files.write_model(&mut writer)?;
    writer.flush()?;
    if let Some(data) = files.data() {
        let mut writer = create(data.location())?;
        data.write(&mut writer)?;
        writer.flush()?;
    }
    Ok(())
}

fn builder(engine: &OnnxRuntime) -> ort::Result<SessionBuilder> {
    let Options { threads, optimize } = engine.options;
    let level = match optimize {
        true => GraphOptimizationLevel::All,
        false => GraphOptimizationLevel::Disable,
    };
    Ok(Session::builder(&engine.environment)?
        .with_intra_threads(threads.get())?
        .with_inter_threads(1)?
        .with_parallel_execution(false)?
        .with_deterministic_compute(true)?
        .with_optimization_level(level)?
        .with_log_level(LogLevel::Warning)?)
}

/// The node that a message of the runtime is about, if it names one.
pub fn blamed<'m>(model: &'m Model, message: &str) -> Option<&'m Arc<Node>> {
    let named = |node: &&Arc<Node>| {
        let name = node.label();
        message.contains(&format!("'{name}'")) || message.contains(&format!("({name})"))
    };
    let operator = |node: &&Arc<Node>| {
        let operator = node.op_type();
        message.contains(&format!("{operator}(")) || message.contains(&format!(" {operator} "))
    };
    let nodes = &model.graph.nodes;
    nodes.iter().find(named).or_else(|| nodes.iter().find(operator))
}

#[cfg(test)]
mod tests {
    use kmr_model::Initializer;

    use super::*;

    #[test]
    fn a_model_that_is_too_large_for_one_message_goes_through_files() {
        let Some(found) = crate::find().unwrap() else {
            eprintln!("SKIPPED: ONNX Runtime is not found");
            return;
        };
        let mut graph = Graph::new("large");
        graph.inputs.push(ValueInfo::tensor(
            "x",
            kmr_model::DType::FLOAT,
            &[Dimension::Fixed(4096)],
        ));
        let weights = Tensor::from_vec(vec![4096], (0..4096).map(|value| value as f32).collect());
        graph
            .initializers
            .insert("w".into(), Initializer::from(weights.clone()));
        graph.nodes.push(Arc::new(Node::new("Add", "", &["x", "w"], &["y"])));
        graph.outputs.push(ValueInfo::untyped("y"));
        let model = Model::new(graph, 10, 17);
        let mut opened = opened(&found.engine(Options::default()), &model, 0).unwrap();
        let folder = opened.files.as_ref().unwrap().path();
        assert!(folder.join("weights").is_file(), "the weights have a file of their own");
        let inputs = vec![(
            "x",
            give("x", &Tensor::from_vec(vec![4096], vec![0.0_f32; 4096])).unwrap(),
        )];
        let outputs = opened.session.run(inputs).unwrap();
        assert_eq!(take("y", &outputs["y"]).unwrap(), weights);
    }
}

//! A complete rule: stores chosen float32 weights as float16, with a Cast back to float32 before they are read.
use kmr_sdk::model::{DType, Edit, Element, Node, Patch, Tensor};
use kmr_sdk::half::f16;
use kmr_sdk::{Action, Applied, Error, Host, KnobSettings, NoConfig, Result, Rule, Target, serde_json::json};

const WORTH_IT: usize = 256; // elements: below that the Cast takes more bytes than it saves

struct HalfPrecision { turned: bool }

impl Rule for HalfPrecision {
    type Config = NoConfig;

    fn new(_: NoConfig, knobs: KnobSettings) -> Result<Self> {
        Ok(Self { turned: knobs.values::<bool>("half")?.contains(&true) })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let graph = host.graph()?.graph;
        let index = graph.index();
        let mut targets = Vec::new();
        for (name, initializer) in graph.initializers.iter().filter(|_| self.turned) {
            let weight = &initializer.tensor;
            // A weight that a subgraph reads, or that cannot be written as float16, stays as it is.
            let readers = index.consumers(name);
            let plain = !index.is_captured(name) && !graph.outputs.iter().any(|output| output.name() == name);
            if !plain || readers.is_empty() || weight.dtype() != DType::FLOAT || weight.len() < WORTH_IT { continue }
            if weight.values::<f32>()?.iter().any(|value| !f16::from_f32(*value).is_finite()) { continue }
            let layers = readers.iter().map(|&(node, _)| graph.nodes[node].id().to_owned()).collect();
            let values = vec![json!(false), json!(true)];
            targets.push(Target { knob: "half".into(), target: name.clone(), label: name.clone(), values, layers });
        }
        Ok(targets)
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let (graph, mut patch, mut applied) = (host.graph()?.graph, Patch::new(), Applied::default());
        for assignment in action.of("half").filter(|assignment| assignment.value == json!(true)) {
            let name = assignment.target.as_str();
            let weight = graph.tensor(name).ok_or_else(|| Error::not_found("no such weight").at(name))?;
            let halves = weight.values::<f32>()?.iter().map(|value| f16::from_f32(*value)).collect();
            let tensor = Tensor::from_vec::<f16>(weight.shape().to_vec(), halves);
            let (index, full) = (graph.index(), format!("{name}_float32"));
            let readers = index.consumers(name);
            let before = readers.first().map(|&(node, _)| graph.nodes[node].id().to_owned());
            let cast = Node::new("Cast", "", &[name], &[&full]).with_int("to", f32::DTYPE.number().into());
            patch.push(Edit::StoreTensor { name: name.into(), tensor });
            patch.push(Edit::AddNode { node: Box::new(cast), before });
            for &(node, input) in readers {
                patch.push(Edit::Rewire { node: graph.nodes[node].id().into(), input, value: full.clone() });
            }
            applied.change(name, "bits", 32, 16);
        }
        host.edit(&patch)?;
        Ok(applied)
    }
}

kmr_sdk::export_plugin! { rule "half" => HalfPrecision { "summary": "stores weights in half precision", "locality": "tensor",
    "knobs": [{ "name": "half", "domain": { "choices": [false, true] }, "per": ["layer"], "default": [false, true] }] } }

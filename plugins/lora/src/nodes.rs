//! Adapters as nodes of the graph, in standard operators.
//!
//! The layer's own node gets an output of another name, and an Add makes the old one: whoever reads it stays as it is,
//! subgraphs and outputs of the model included.

use kmr_sdk::{
    Error, Result,
    model::{
        Build, Edit, Graph, Node, Patch, Tensor,
        adapters::{A, Adapter, B, SCALING},
    },
};

use crate::layers::{Kind, Layer};

/// Edits that add adapters.
pub struct Adding<'g> {
    graph: &'g Graph,
    build: Build,
    /// The share of inputs that is dropped while training.
    dropout: f32,
}

impl<'g> Adding<'g> {
    /// Nothing is added to `graph` yet.
    pub fn to(graph: &'g Graph) -> Self {
        Self {
            graph,
            build: Build::on(graph),
            dropout: 0.0,
        }
    }

    /// Adapters drop this share of what they read, in training mode.
    #[must_use]
    pub fn dropping(mut self, share: f32) -> Self {
        self.dropout = share;
        self
    }

    /// Adds an initializer that must have this name.
    fn tensor(&mut self, name: String, tensor: Tensor) -> Result<String> {
        if self.build.name(&name) != name {
            let message = "exists already, and an adapter's tensor needs this name; rename it";
            return Err(Error::unsupported(message).at(format!("value `{name}`")));
        }
        self.build.store(&name, tensor);
        Ok(name)
    }

    fn node(&mut self, before: &str, node: Node) {
        self.build.edit(Edit::AddNode {
            node: Box::new(node),
            before: Some(before.to_owned()),
        });
    }

    /// Adds an adapter behind every node of `layer`.
    ///
    /// # Errors
    /// If a name that its tensors need is taken.
    pub fn adapter(&mut self, layer: &Layer, adapter: &Adapter) -> Result<()> {
        let tensor = |suffix: &str| format!("{}{suffix}", layer.name);
        let a = self.tensor(tensor(A), adapter.a.clone())?;
        let b = self.tensor(tensor(B), adapter.b.clone())?;
        let scaling = match adapter.scaling == 1.0 {
            true => None,
            false => Some(self.tensor(tensor(SCALING), Tensor::scalar(adapter.scaling))?),
        };
        let ratio = match self.dropout > 0.0 {
            true => Some(self.tensor(tensor(".lora_dropout"), Tensor::scalar(self.dropout))?),
            false => None,
        };
        let mut factors = (a, b);
        for (position, id) in layer.nodes.iter().enumerate() {
            let own = self.graph.node(id);
            let own = own
                .ok_or_else(|| Error::not_found("does not exist").at(format!("node `{id}`")))?
                .clone();
            if position == 0 && layer.kind == Kind::MatMul {
                for (factor, part) in [(&mut factors.0, ".lora_A"), (&mut factors.1, ".lora_B")] {
                    let turned = self.build.name(&format!("{}{part}.turned", layer.name));
                    let node = Node::new("Transpose", "", &[factor.as_str()], &[&turned]);
                    self.node(id, node.with_ints("perm", &[1, 0]));
                    *factor = turned;
                }
            }
            let mut last = own.input(0).unwrap_or_default().to_owned();
            if let Some(ratio) = &ratio {
                let dropped = self.build.name(&format!("{}.lora_dropped", layer.name));
                self.node(id, Node::new("Dropout", "", &[&last, ratio], &[&dropped]));
                last = dropped;
            }
            let down = self.build.name(&format!("{}.lora_A", layer.name));
            self.node(id, like(&own, layer.kind, [&last, &factors.0], &down));
            last = down;
            if let Some(scaling) = &scaling {
                let scaled = self.build.name(&format!("{}.lora_scaled", layer.name));
                self.node(id, Node::new("Mul", "", &[&last, scaling], &[&scaled]));
                last = scaled;
            }
            let up = self.build.name(&format!("{}.lora_B", layer.name));
            let node = match layer.kind {
                Kind::Gemm { .. } => Node::new("Gemm", "", &[&last, &factors.1], &[&up]).with_int("transB", 1),
                Kind::MatMul => Node::new("MatMul", "", &[&last, &factors.1], &[&up]),
                Kind::Conv => {
                    let ones = vec![1; layer.kernel().len()];
                    Node::new("Conv", "", &[&last, &factors.1], &[&up]).with_ints("kernel_shape", &ones)
                }
            };
            self.node(id, node);
            self.add(&own, id, &format!("{}.base", layer.name), &up)?;
        }
        Ok(())
    }

    /// Lets `own` make another value, and the sum of that and `up` what it made.
    fn add(&mut self, own: &Node, id: &str, wanted: &str, up: &str) -> Result<()> {
        let base = self.build.name(wanted);
        let mut message = own.proto().clone();
        message.output = vec![base.clone()];
        self.node(id, Node::from_proto(message)?);
        self.node(id, Node::new("Add", "", &[&base, up], &[id]));
        self.build.edit(Edit::RemoveNode { node: id.to_owned() });
        Ok(())
    }

    /// The edits.
    pub fn finish(self) -> Patch {
        self.build.finish()
    }
}

/// The node that multiplies with A: reading like the layer's own.
fn like(own: &Node, kind: Kind, inputs: [&str; 2], output: &str) -> Node {
    match kind {
        Kind::Gemm { .. } => Node::new("Gemm", "", &inputs, &[output]).with_int("transB", 1),
        Kind::MatMul => Node::new("MatMul", "", &inputs, &[output]),
        Kind::Conv => {
            let mut node = Node::new("Conv", "", &inputs, &[output]);
            for attribute in &own.proto().attribute {
                node.set_attribute(attribute.clone());
            }
            node
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::{Scaling, fresh},
        layers::layers,
        testing::{convolutions, perceptron},
    };

    #[test]
    fn outputs_keep_their_names_and_bases_their_labels() {
        for model in [perceptron(), convolutions()] {
            let found = layers(&model).unwrap();
            let mut adding = Adding::to(&model.graph);
            let scaling = Scaling {
                alpha: Some(8.0),
                stabilized: false,
            };
            for layer in &found {
                adding.adapter(layer, &fresh(layer, 2, scaling, 1).unwrap()).unwrap();
            }
            let graph = adding.finish().apply(&model.graph).unwrap();
            let adapted = model.with_graph(graph);
            let names = |graph: &Graph| graph.outputs.iter().map(|o| o.name().to_owned()).collect::<Vec<_>>();
            assert_eq!(names(&adapted.graph), names(&model.graph));
            assert_eq!(layers(&adapted).unwrap(), [], "no layer is adapted twice");
            assert_eq!(
                kmr_sdk::model::adapters::adapters(&adapted.graph).unwrap().len(),
                found.len()
            );
            assert!(adapted.graph.node(&format!("{}.base", found[0].name)).is_some());
        }
    }

    #[test]
    fn a_name_that_is_taken_is_told() {
        let mut model = perceptron();
        let layer = layers(&model).unwrap()[0].clone();
        model
            .graph
            .initializers
            .insert("first.lora_scaling".into(), Tensor::scalar(1.0_f32).into());
        let mut adding = Adding::to(&model.graph);
        let adapter = fresh(
            &layer,
            1,
            Scaling {
                alpha: Some(2.0),
                stabilized: false,
            },
            1,
        )
        .unwrap();
        let error = adding.adapter(&layer, &adapter).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("value `first.lora_scaling`: exists already"),
            "{error}"
        );
    }
}

"""Routed experts in ONNX, in the form that kmr_model::experts writes and finds."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper


class Writer:
    """Nodes and tensors of a graph, as they come."""

    def __init__(self):
        self.nodes, self.tensors = [], {}

    def tensor(self, name, values):
        self.tensors[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def node(self, op, inputs, output, **attributes):
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0]

    def model(self, name, inputs, outputs):
        """The checked model; inputs and outputs are (name, type, shape)."""
        declared = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, name, *declared, list(self.tensors.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        checker.check_model(model, full_check=True)
        return model


def activate(graph, value, kind, name):
    if kind == "silu":
        sigmoid = graph.node("Sigmoid", [value], f"{name}.sigmoid")
        return graph.node("Mul", [value, sigmoid], f"{name}.active")
    root = graph.tensor("root", np.float32(2**0.5))
    one, half = graph.tensor("one", np.float32(1)), graph.tensor("half", np.float32(0.5))
    scaled = graph.node("Div", [value, root], f"{name}.scaled")
    raised = graph.node("Add", [graph.node("Erf", [scaled], f"{name}.erf"), one], f"{name}.raised")
    return graph.node("Mul", [graph.node("Mul", [value, raised], f"{name}.product"), half], f"{name}.active")


def network(graph, x, name, weights, activation, gated):
    """A feed-forward network; the weights of its products are called f"{weights}.up_proj.weight" and so on."""
    product = lambda value, part: graph.node(
        "Gemm", [value, f"{weights}.{part}_proj.weight"], f"{name}.{part}", transB=1
    )
    if gated:
        hidden = activate(graph, product(x, "gate"), activation, name)
        hidden = graph.node("Mul", [hidden, product(x, "up")], f"{name}.hidden")
    else:
        hidden = activate(graph, product(x, "up"), activation, name)
    return product(hidden, "down")


def experts(graph, x, name, y, *, width, count, top_k, weighted=True, activation="silu", gated=True):
    """Experts whose weights are called f"{name}.experts.{number}.up_proj.weight" and so on, and their router, called
    f"{name}.gate.weight"."""
    of = lambda part: f"{name}.{part}"
    tokens = graph.node("Reshape", [x, graph.tensor("rows", np.array([-1, width]))], of("tokens"))
    ranked = graph.node("Gemm", [tokens, of("gate.weight")], of("scores"), transB=1)
    if weighted:
        ranked = graph.node("Softmax", [ranked], of("shares"), axis=-1)
    top_k = graph.tensor(of("top_k"), np.array([top_k]))
    graph.node("TopK", [ranked, top_k], [of("greatest"), of("chosen")], axis=-1)
    if weighted:
        last = graph.tensor("last", np.array([-1]))
        total = graph.node("ReduceSum", [of("greatest"), last], of("total"), keepdims=1)
        weights = graph.node("Div", [of("greatest"), total], of("weights"))
    sum = graph.node("ConstantOfShape", [graph.node("Shape", [tokens], of("tokens.shape"))], of("zeros"))
    zero, column = graph.tensor("number.0", np.array(0)), graph.tensor("column", np.array([1]))
    for number in range(count):
        own = lambda part: f"{name}.{number}.{part}"
        hits = graph.node("Equal", [of("chosen"), graph.tensor(f"number.{number}", np.array(number))], own("hits"))
        where = graph.node("NonZero", [hits], own("where"))
        rows = graph.node("Gather", [where, zero], own("rows"), axis=0)
        token = graph.node("Gather", [tokens, rows], own("tokens"), axis=0)
        made = network(graph, token, f"{name}.{number}", f"{name}.experts.{number}", activation, gated)
        if weighted:
            places = graph.node("Transpose", [where], own("places"), perm=[1, 0])
            weight = graph.node("GatherND", [weights, places], own("weight"))
            weight = graph.node("Unsqueeze", [weight, column], own("weights"))
            made = graph.node("Mul", [made, weight], own("weighted"))
        rows = graph.node("Unsqueeze", [rows, column], own("indices"))
        sum = graph.node("ScatterND", [sum, rows, made], own("sum"), reduction="add")
    graph.node("Reshape", [sum, graph.node("Shape", [x], of("shape"))], y)


__all__ = ["TensorProto", "Writer", "experts", "network"]

"""The optimisers' documented formulas, of one row: what `kernels.rules` names and `nn.optimisers` tells."""

from __future__ import annotations

from torch import Tensor

from nnsparse_stream.kernels.rules import SGD, Adagrad, Adam, Rule

State = dict[str, Tensor]


def change(rule: Rule, gradient: Tensor, state: State) -> Tensor:
    """What a rule takes from a row.

    Args:
        rule: what to do.
        gradient: (units,), with the L2 term.
        state: what the rule keeps of the row, each (units,) or (1,); it is set to what it keeps afterwards.
    """
    if isinstance(rule, SGD):
        if "velocity" not in state:
            return rule.lr * gradient
        state["velocity"] = rule.momentum * state["velocity"] + gradient
        return rule.lr * state["velocity"]
    if isinstance(rule, Adagrad):
        state["squares"] = state["squares"] + gradient**2
        return rule.lr * gradient / (state["squares"].sqrt() + rule.eps)
    assert isinstance(rule, Adam)
    squares = gradient**2 if len(state["second"]) == len(gradient) else (gradient**2).mean()
    state["updates"] = state["updates"] + 1
    state["first"] = rule.beta1 * state["first"] + (1 - rule.beta1) * gradient
    state["second"] = rule.beta2 * state["second"] + (1 - rule.beta2) * squares
    first = state["first"] / (1 - rule.beta1 ** state["updates"])
    second = state["second"] / (1 - rule.beta2 ** state["updates"])
    return rule.lr * first / (second.sqrt() + rule.eps)

"""Operations under all of their names, values that pick, and what rules cannot follow.

Generating: every spelling that PyTorch has of an operation gets its one name; nets put together of
spellings are complete and closed, or the result says what is missing.
"""

import inspect
import math
import re
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engines.backward.test_run import closure, images
from tests.engines.backward.test_run import explain as explained
from torch import Tensor, nn
from torch.nn import functional as F

from abe.engines.backward.deeplift_record import ELEMENTWISE, POOLS, REDUCTIONS
from abe.errors import ModelError
from abe.instrument.operations import PRODUCTS
from abe.instrument.spellings import canonical


class Net(nn.Module):
    """A convolution, a function of its output, and a dense layer on what that gives."""

    def __init__(self, middle, *, last=None, width: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) / 3)

        self.middle, self.last = middle, last
        self.first, self.bias = drawn(width, 3, 3, 3), drawn(width)
        with torch.no_grad():
            hidden = self._hidden(images(1)).numel()
        self.head, self.shift = nn.Parameter(drawn(3, hidden).data / math.sqrt(hidden) * 9), drawn(3)
        self.eval()

    def _hidden(self, x: Tensor) -> Tensor:
        return self.middle(F.conv2d(x, self.first, self.bias, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(self._hidden(x).reshape(len(x), -1).to(self.head.dtype), self.head, self.shift)
        return out if self.last is None else self.last(out)


def explain(net: nn.Module, x: Tensor, method: str, **how):
    if method == "deepshap":
        how = {"samples": 3, "background": "noise", **how}
    return explained(net, x, method, **how)


def missed(found) -> float:
    """The share that a DeepLIFT map misses of the score change, an LRP map and its books of the score."""
    if found.delta is not None:
        return float(found.residual.abs().max())
    return closure(found)


def noted(found) -> bool:
    return any("ABE-INCOMPLETE" in warning for warning in found.warnings)


def said(net: nn.Module, x: Tensor, method: str, *codes: str) -> bool:
    """Whether the map is complete, or a note or a refusal with one of the codes says that it is not."""
    try:
        found = explain(net, x, method)
    except ModelError as refusal:
        return refusal.code in codes
    return missed(found) < 1e-6 or noted(found)


BOTH = ("deeplift", "lrp_epsilon")

# ---------------------------------------------------------------- one name

FURTHER = """arctan=atan arcsin=asin arccos=acos arcsinh=asinh arccosh=acosh arctanh=atanh absolute=abs
    negative=neg clip=clamp fix=trunc multiply=mul subtract=sub divide=div true_divide=div ger=outer
    greater=gt less=lt greater_equal=ge less_equal=le concat=cat concatenate=cat expit=sigmoid psi=digamma
    gammaln=lgamma swapaxes=transpose swapdims=transpose row_stack=vstack fmax=maximum fmin=minimum"""
ALIASES = [pair.split("=") for pair in FURTHER.split()]
ROOMS = (torch, torch.Tensor, F, torch.special, torch.linalg)
UNARY = sorted(
    ELEMENTWISE - {"rdiv", "rpow", "threshold", "clamp_min", "clamp_max", "pow", "prelu", "clamp", "rrelu"}
)
KNOWN = {*ELEMENTWISE, *PRODUCTS, *POOLS, *REDUCTIONS, "softmax", "log_softmax", "logsumexp", "add", "sub"}


def spellings(name: str):
    """Every public function of PyTorch with this name or an alias of it, in place or not."""
    names = [name, *(other for other, one in ALIASES if one == name)]
    for room in ROOMS:
        for one in names:
            for spelled in (one, f"{one}_", f"special_{one}"):
                function = getattr(room, spelled, None)
                if callable(function) and not inspect.isclass(function):
                    yield function


@pytest.mark.parametrize("name", sorted(KNOWN | {one for _, one in ALIASES}))
def test_every_function_of_a_name_has_it(name):
    functions = list(spellings(name))
    assert functions or name in (
        "rdiv",
        "rpow",
        "rmatmul",
        "linalg_multi_dot",
        "linalg_vecdot",
        "linalg_cross",
    )
    if name.startswith(("max_pool", "adaptive_max_pool")):
        return  # functions that choose between two, which give their names when they are called
    for function in functions:
        assert canonical(function)[0] == name, function


def domain(name: str, x: Tensor) -> Tensor:
    return x.sigmoid() * 0.8 + (1.05 if name == "acosh" else 0.1)


def calls(name: str):
    """What `Net` can do with one tensor by every spelling of a function of one."""
    for function in spellings(name):
        in_place = canonical(function)[1]

        def call(x, function=function, in_place=in_place):
            x = domain(name, x)
            return function(x.clone() if in_place else x)

        yield call
        if not in_place and function is getattr(torch, name, None):
            yield lambda x, function=function: function(input=domain(name, x))
            yield lambda x, function=function: function(domain(name, x), out=torch.empty_like(x))
    module = {m.lower(): m for m in dir(nn)}.get(name.replace("_", ""))
    if module is not None and name not in ("rrelu",):
        yield lambda x: getattr(nn, module)()(domain(name, x))


@pytest.mark.parametrize("name", UNARY)
def test_every_call_of_a_function_is_complete_and_gives_one_map(name):
    """Functions, methods, special functions, modules, in place, ``out=`` and keywords."""
    x, maps = images(2), []
    for call in calls(name):
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                call(x)
        except (TypeError, RuntimeError, NotImplementedError):
            continue  # PyTorch has no such spelling
        found = explain(Net(call), x, "deeplift")
        assert missed(found) < 1e-8
        maps.append(found.attribution)
    assert maps
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=1e-9, atol=1e-12)


def gate(h: Tensor) -> Tensor:
    return h.mean((2, 3), keepdim=True).tanh() + 1.5


def written_by(operator: str):
    def call(h: Tensor) -> Tensor:
        h = h * 1
        exec(f"h {operator}= g", room := {"h": h, "g": gate(h)})
        return room["h"]

    return call


WAYS = """
add:
    h + gate(h) ; torch.add(h, other=gate(h)) ; h.add(other=gate(h)) ; torch.add(input=h, other=gate(h))
sub:
    h - gate(h) ; torch.subtract(h, gate(h)) ; torch.rsub(gate(h), h) ; h.sub(other=gate(h))
mul:
    h * gate(h) ; torch.multiply(h, gate(h)) ; h.mul(other=gate(h)) ; torch.mul(input=h, other=gate(h))
div:
    h / gate(h) ; torch.true_divide(h, gate(h)) ; h.div(other=gate(h)) ; torch.divide(h, other=gate(h))
maximum:
    torch.maximum(h, gate(h)) ; torch.max(h, gate(h)) ; h.max(gate(h)) ; torch.fmax(h, gate(h)) ;
    h.maximum(other=gate(h)) ; torch.max(h, other=gate(h))
minimum:
    torch.minimum(h, gate(h)) ; torch.min(h, gate(h)) ; h.min(other=gate(h))
square:
    h.square() ; torch.square(h) ; h ** 2 ; h.pow(2) ; torch.pow(h, exponent=2) ; h.clone().pow_(2) ;
    h.clone().square_()
divisor:
    1 / gate(h) + h ; gate(h).reciprocal() + h ; gate(h) ** -1 + h ; torch.pow(gate(h), -1) + h ;
    torch.ones_like(h[:, :1]) / gate(h) + h
power of a number:
    2 ** h ; torch.pow(2, h) ; torch.pow(torch.full_like(h, 2.0), h) ; torch.exp2(h)
root:
    gate(h).rsqrt() * h ; torch.rsqrt(input=gate(h)) * h ; gate(h).pow(-0.5) * h ; h / gate(h).sqrt()
where:
    torch.where(h > 0, h, 0.1) ; h.where(h > 0, 0.1) ;
    torch.where(condition=h > 0, input=h, other=torch.full_like(h, 0.1)) ;
    h.where(other=torch.full_like(h, 0.1), condition=h > 0) ; h.masked_fill(~(h > 0), 0.1)
softmax:
    h.softmax(1) ; F.softmax(h, dim=1) ; torch.softmax(input=h, dim=1) ; torch.special.softmax(h, 1) ;
    nn.Softmax(1)(h) ; h.softmax(axis=1)
log_softmax:
    h.log_softmax(1) ; F.log_softmax(h, dim=1) ; torch.special.log_softmax(h, 1) ; nn.LogSoftmax(1)(h)
softmin:
    F.softmin(h, dim=1) ; nn.Softmin(1)(h) ; (-h).softmax(1)
glu:
    F.glu(h, 1) ; F.glu(input=h, dim=1) ; nn.GLU(1)(h)
amax:
    h.amax(1) ; torch.amax(h, dim=1) ; torch.amax(input=h, dim=(1,)) ; h.max(1).values ;
    torch.max(h, dim=1)[0]
product:
    flat(h) @ square(h) ; torch.matmul(flat(h), other=square(h)) ; torch.mm(flat(h), mat2=square(h)) ;
    torch.einsum('ij,jk->ik', flat(h), square(h)) ; torch.bmm(flat(h)[None], square(h)[None])[0] ;
    torch.linalg.multi_dot([flat(h), square(h)]) ; torch.tensordot(flat(h), square(h), 1) ;
    F.linear(flat(h), weight=square(h).T) ;
    torch.addmm(torch.zeros(6).double(), flat(h), square(h), beta=0) ; torch.inner(flat(h), square(h).T)
convolution:
    F.conv2d(h, kernel(h)) ; F.conv2d(input=h, weight=kernel(h)) ;
    torch.conv2d(h, kernel(h), bias=None) ; torch.einsum('bchw,oc->bohw', h, kernel(h)[:, :, 0, 0]) ;
    F.conv_transpose2d(h, kernel(h).transpose(0, 1))
lerp:
    torch.lerp(h, h.square(), h.sigmoid()) ; h.lerp(end=h.square(), weight=h.sigmoid()) ;
    h.clone().lerp_(h.square(), h.sigmoid()) ; h + h.sigmoid() * (h.square() - h)
addcmul:
    torch.addcmul(h, h.tanh(), h.sin(), value=2) ;
    h.addcmul(tensor2=h.sin(), tensor1=h.tanh(), value=2) ;
    h.clone().addcmul_(h.tanh(), h.sin(), value=2) ; h + 2 * (h.tanh() * h.sin())
addmm:
    torch.addmm(flat(h), flat(h), square(h), alpha=0.5) ;
    flat(h).addmm(mat1=flat(h), mat2=square(h), alpha=0.5) ; flat(h) + 0.5 * (flat(h) @ square(h)) ;
    torch.baddbmm(flat(h)[None], flat(h)[None], square(h)[None], alpha=0.5)[0]
batch norm:
    F.batch_norm(h, mean(), var(), scale(h), -scale(h)) ;
    torch.batch_norm(h, scale(h), -scale(h), mean(), var(), False, 0.1, 1e-5, False) ;
    F.batch_norm(input=h, running_mean=mean(), running_var=var(), weight=scale(h), bias=-scale(h))
instance norm:
    F.instance_norm(h) ; F.instance_norm(input=h) ; nn.InstanceNorm2d(6)(h) ; F.group_norm(h, 6) ;
    torch.instance_norm(h, None, None, None, None, True, 0.1, 1e-5, False)
layer norm:
    F.layer_norm(h, h.shape[2:], h.mean((0, 1))) ;
    F.layer_norm(input=h, normalized_shape=h.shape[2:], weight=h.mean((0, 1)))
normalize:
    F.normalize(h) ; F.normalize(input=h, dim=1) ; h / h.norm(dim=1, keepdim=True) ;
    h / torch.linalg.norm(h, dim=1, keepdim=True) ;
    h / torch.linalg.vector_norm(h, dim=1, keepdim=True) ; h / h.square().sum(1, keepdim=True).sqrt()
deviation:
    h / (h.std(1, keepdim=True) + 1) ; h / (torch.std(h, dim=1, keepdim=True) + 1) ;
    h / (h.var(1, keepdim=True).sqrt() + 1) ; h / (torch.std_mean(h, 1, keepdim=True)[0] + 1) ;
    h / (torch.var_mean(h, dim=1, correction=1, keepdim=True)[0].sqrt() + 1) ;
    h / (h.std(dim=1, unbiased=True, keepdim=True) + 1)
local response norm:
    F.local_response_norm(h, 3, alpha=0.5) ; nn.LocalResponseNorm(3, 0.5)(h) ;
    F.local_response_norm(input=h, size=3, alpha=0.5)
cosine:
    F.cosine_similarity(h, h.tanh() + 1) ; torch.cosine_similarity(x1=h, x2=h.tanh() + 1, dim=1) ;
    nn.CosineSimilarity()(h, h.tanh() + 1) ; (F.normalize(h) * F.normalize(h.tanh() + 1)).sum(1)
distance:
    F.pairwise_distance(flat(h), flat(h).tanh() - 1, eps=0) ;
    (flat(h) - flat(h).tanh() + 1).norm(dim=-1) ;
    nn.PairwiseDistance(eps=0)(flat(h), flat(h).tanh() - 1)
"""
"""Operations of two or more tensors h and what is made of it, each in several spellings."""


def read(text: str) -> dict[str, list[str]]:
    parts = re.split(r"^(\S.*):$", text, flags=re.MULTILINE)[1:]
    return {
        name: [one.strip() for one in ways.split(";")]
        for name, ways in zip(parts[::2], parts[1::2], strict=True)
    }


BINARY = read(WAYS)
AUGMENTED = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
ROOM = {
    "torch": torch,
    "F": F,
    "nn": nn,
    "gate": gate,
    "flat": lambda h: h.flatten(2).transpose(1, 2).flatten(0, 1),
    "square": lambda h: torch.outer(*[h.mean((0, 2, 3)).tanh()] * 2) + 0.3,
    "kernel": lambda h: torch.outer(*[h.mean((0, 2, 3)).tanh()] * 2)[:, :, None, None],
    "scale": lambda h: h.mean((0, 2, 3)),
    "mean": lambda: torch.linspace(-0.2, 0.2, 6, dtype=torch.float64),
    "var": lambda: torch.linspace(0.5, 1.5, 6, dtype=torch.float64),
}


REFUSED = {"power of a number": "'(rpow|pow|exp2)'", "softmax": "'softmax'", "softmin": "'softmax'"}
"""What LRP takes for a constant, and what it says of it where nothing else is left."""


def ways(operation: str):
    found = [eval(f"lambda h: {way}", ROOM) for way in BINARY[operation]]
    return found + [written_by(AUGMENTED[one]) for one in AUGMENTED if one == operation]


@pytest.mark.parametrize("operation", BINARY)
def test_spellings_of_one_operation_give_one_map(operation):
    """DeepLIFT is complete and LRP closed, or all are refused by name."""
    x, by_method = images(1), {}
    for method in BOTH:
        for way in ways(operation):
            if method == "lrp_epsilon" and operation in REFUSED:
                with pytest.raises(ModelError, match=REFUSED[operation]):
                    explain(Net(way), x, method)
                continue
            found = explain(Net(way), x, method)
            assert missed(found) < 1e-8, method
            assert not noted(found)
            by_method.setdefault(method, []).append(found.attribution)
    for maps in by_method.values():
        for other in maps[1:]:
            torch.testing.assert_close(other, maps[0], rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- values that pick


def assign(h: Tensor) -> Tensor:
    h = h.clone()
    h[h < 0] = 0
    return h


def means(h: Tensor) -> Tensor:
    return h.mean((2, 3))


def frozen(h: Tensor) -> Tensor:
    with torch.no_grad():
        size = h.abs().amax((1, 2, 3), keepdim=True)
    return h / size


def branching(h: Tensor) -> Tensor:
    return h * 3 if h.sum() > -2 else h - 1


def leaky(h: Tensor) -> Tensor:
    h = h.clone()
    low = h < 0.1
    h[low] = h[low] * 0.2
    return h


FOLLOWED = {
    "assignment by a mask": assign,
    "assignment by a mask of another value": lambda h: h.tanh().index_fill(1, torch.tensor([2]), 0.5),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.0),
    "masked_fill by the mask of another value": lambda h: h.tanh().masked_fill(h.flip(1) < 0.1, 0.3),
    "times a comparison": lambda h: h * (h.mean(1, keepdim=True) > 0),
    "times a comparison of two": lambda h: h * (h >= h.flip(1)).to(h),
    "times what is not": lambda h: h * (1 - (h < 0.1).double()) + h * ~(h.flip(2) > 0),
    "where, leaky": lambda h: torch.where(h > 0.1, h, 0.2 * h),
    "where of others": lambda h: torch.where(
        h.sin() > h.tanh() + 0.01 - h.flip(1) * 0.1, h.tanh(), h.square()
    ),
    "convolution by weights of the input": lambda h: F.conv2d(
        h.reshape(1, -1, *h.shape[2:]),
        (means(h).tanh()[..., None] * torch.linspace(-1, 1, 6).to(h)).reshape(-1, 6, 1, 1),
        groups=len(h),
    ).reshape(h.shape),
    "bmm of two branches": lambda h: h.flatten(2) @ h.tanh().flatten(2).transpose(1, 2),
    "three factors": lambda h: torch.einsum("bchw,bdhw,bchw->bcd", h, h.tanh(), h),
    "bilinear": lambda h: F.bilinear(
        means(h), means(h).tanh(), torch.ones(4, 6, 6).to(h), torch.ones(4).to(h)
    ),
    "largest over places": lambda h: torch.cat(
        [h.flatten(2).max(-1)[0], h.amin((2, 3)), h.min(2)[0].flatten(1)], 1
    ),
    "a layer with what is added": lambda h: torch.addmm(means(h), means(h).tanh(), torch.ones(6, 6).to(h)),
}
"""What depends on the input in more than one way, or through a mask of comparisons: followed to the end."""
UNFOLLOWED = {
    "one-hot of argmax": lambda h: h * F.one_hot(h.argmax(1), 6).movedim(-1, 1),
    "gather at argmax": lambda h: h.gather(1, means(h).argmax(1)[:, None, None, None].expand(-1, 1, 3, 3)),
    "index at argmax": lambda h: h[torch.arange(len(h)), means(h).argmax(1)],
    "a detached factor": lambda h: h * h.detach().sigmoid(),
    "a detached shift": lambda h: (h - h.amax(1, keepdim=True).detach()).exp(),
    "without gradients": frozen,
    "values of a mask": leaky,
    "order": lambda h: h.sort(1)[0],
    "the largest few": lambda h: h * (h >= h.topk(2, 1)[0][:, 1:]),
    "a branch": branching,
    "rounded": lambda h: h + (h.round() - h).detach(),
    "sums of groups": lambda h: torch.zeros_like(means(h)).scatter_add(1, means(h).argsort(1) // 2, means(h)),
}
"""What picks by values, which has no gradient to follow."""


@pytest.mark.parametrize("form", FOLLOWED)
@pytest.mark.parametrize("method", [*BOTH, "lrp_z_plus", "lrp_composite", "deep_taylor", "attention_lrp"])
def test_what_can_be_followed_is_complete(form, method):
    params = {"bounded": False} if method == "deep_taylor" else {}
    found = explain(Net(FOLLOWED[form]), images(2) - 0.3, method, **params)
    assert missed(found) < 1e-8
    assert not noted(found)


@pytest.mark.parametrize("form", UNFOLLOWED)
@pytest.mark.parametrize("method", [*BOTH, "dl_rev", "deepshap"])
def test_what_cannot_is_noted_or_refused_by_name(form, method):
    codes = "ABE-RULE", "ABE-NOT-DIFFERENTIABLE"  # the latter of an exponential, where nothing else is left
    assert said(Net(UNFOLLOWED[form]), images(2) - 0.3, method, *codes)


def test_a_note_says_what_is_missing_and_who_reads_it():
    (note,) = explain(Net(UNFOLLOWED["a detached factor"]), images(1), "deeplift").warnings
    assert "'mul' in the model's own forward read" in note
    assert "ABE-INCOMPLETE" in note


def test_books_that_do_not_close_are_noted():
    found = explain(Net(torch.tanh), images(1), "lrp_epsilon", rules=(("tanh", Gradient()),))
    assert "do not close" in found.warnings[0]
    assert not explain(Net(torch.tanh), images(1), "lrp_epsilon").warnings


class Gradient:
    """The operation's own gradient, which is no rule."""

    def __call__(self, step):
        return step.plain()


# ---------------------------------------------------------------- nets put together

OF_ROWS = ("convolution", "product", "distance", "cosine", "addmm")
PARTS = [way for operation in BINARY if operation not in OF_ROWS for way in ways(operation)]
PARTS += [form for name, form in FOLLOWED.items() if name.startswith(("times", "where", "masked", "assign"))]
PARTS += [
    form for name, form in UNFOLLOWED.items() if not name.startswith(("gather", "index", "sums", "order"))
]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.sampled_from(PARTS), min_size=2, max_size=4), st.sampled_from(BOTH), st.booleans())
def test_nets_of_these_are_complete_or_say_so(parts, method, residual):
    def middle(h):
        for part in parts:
            out = part(h)
            out = out if out.shape == h.shape else out.reshape(len(h), -1).mean(1) + h * 0.1
            h = (out + h if residual else out).clamp(-4, 4)
        return h

    codes = "ABE-RULE", "ABE-NOT-DIFFERENTIABLE", "ABE-NOT-FINITE-GRADIENT"
    assert said(Net(middle), images(1) - 0.3, method, *codes)


# ---------------------------------------------------------------- the end of a model

ENDS = {
    "softmax": [nn.Softmax(1), lambda z: F.softmax(z, dim=1), lambda z: z.softmax(1)],
    "sigmoid": [nn.Sigmoid(), torch.sigmoid, torch.special.expit],
}


@pytest.mark.parametrize(("end", "way"), [(end, i) for end, forms in ENDS.items() for i in range(len(forms))])
def test_a_constant_at_the_end_is_named(end, way):
    for method in ("lrp_epsilon", "lrp_composite", "lrp_flat", "ebp"):
        with pytest.raises(ModelError, match=rf"'{end}' in .*use deeplift.*ABE-NOT-DIFFERENTIABLE"):
            explain(Net(torch.relu, last=ENDS[end][way]), images(1), method)
    assert missed(explain(Net(torch.relu, last=ENDS[end][way]), images(1), "deeplift")) < 1e-8


@pytest.mark.parametrize(
    "method", ["lrp_epsilon", "lrp_z_plus", "lrp_composite", "lrp_flat", "attention_lrp"]
)
def test_a_log_softmax_at_the_end_is_logits_and_a_shift(method):
    x = images(2)
    logits = explain(Net(torch.relu), x, method)
    for last in (nn.LogSoftmax(1), lambda z: F.log_softmax(z, -1), lambda z: torch.special.log_softmax(z, 1)):
        found = explain(Net(torch.relu, last=last), x, method)
        assert closure(found) < 1e-8
        if method != "lrp_flat":  # relevance, not a ratio, so it is in units of the score
            torch.testing.assert_close(found.attribution, logits.attribution)


@pytest.mark.parametrize("method", ["deeplift", "dl_rev", "deepshap"])
def test_a_log_sigmoid_is_covered(method):
    for last in (nn.LogSigmoid(), F.logsigmoid, lambda z: torch.sigmoid(z).log()):
        assert missed(explain(Net(torch.relu, last=last), images(2), method)) < 1e-8


# ---------------------------------------------------------------- hidden operations


def squash(h: Tensor) -> Tensor:
    return h.tanh() * h


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    SCRIPTED = torch.jit.script(squash)
    TRACED = torch.jit.trace(squash, torch.ones(2))


class ByGlobal(Net):
    def forward(self, x):
        return SCRIPTED(super().forward(x))


@pytest.mark.parametrize("method", [*BOTH, "gbp", "deepshap", "ebp"])
@pytest.mark.parametrize(
    ("hidden", "says"),
    [
        (lambda: Net(SCRIPTED), "'middle' in the model itself"),
        (lambda: Net(torch.relu, last=lambda z: TRACED(z)), "'TRACED' in the model itself"),
        (lambda: ByGlobal(torch.relu), "'SCRIPTED' in the model itself"),
        (lambda: Net(torch.vmap(squash)), "vmap"),
        (lambda: Net(lambda h: torch.vmap(lambda one: F.relu(one) + one)(h)), "vmap"),
    ],
)
def test_what_hides_its_operations_is_refused_by_name(hidden, says, method):
    with pytest.raises(ModelError, match=rf"{says}.*ABE-(OPAQUE-MODEL|HIDDEN-BACKWARD)"):
        explain(hidden(), images(2), method)

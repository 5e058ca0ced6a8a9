"""The name of every fault and note, and what to change or to say."""

from __future__ import annotations

RAISES, WRONG_VALUE, NOT_ONE_NUMBER = "raises an error", "wrong value", "not a 0-d tensor"
ONE_ELEMENT, FIRST_OF_A_TUPLE = "one element instead of a 0-d tensor", "a tuple, whose first element is the value"
NOT_ASKED, NO_GRAPH = "critic not asked", "no graph to the critic's parameters"
NO_GRAPH_TO_CRITIC = "no graph from the loss to the critic"
MODIFIED, CHANGED = "the caller's tensors are modified", "the critic is changed"
NO_SLOPE, WRONG_SLOPES, OVERWRITES = "no gradient to the logits", "wrong slopes", "overwrites the logits"
NO_REAL_SLOPE, NO_FAKE_SLOPE = "no gradient to the real logits", "no gradient to the fake logits"
BCE_EXCHANGED = "BCE arguments exchanged"
DETACHED_MEAN = "the other side's mean is detached"
BROADCASTS, NEEDS_AS_MANY = "broadcasts [N, 1] against [N]", "needs as many real as fake logits"
ONE_ALPHA, ALPHA_PER_ELEMENT = "one alpha for the whole batch", "one alpha per element"
AT_REAL, AT_FAKE, AT_WRONG_POINTS = "taken at the real rows", "taken at the fake rows", "taken at the wrong points"

# of penalties, losses and steps
OF_ANYTHING = {
    RAISES: "Make it run on a CPU, for logits [N, ...] or for a batch; shape= and batch_size= say which rows a penalty takes.",
    NOT_ONE_NUMBER: "Reduce to one number, and return it as a tensor without dimensions.",
}

# of penalties and losses
OF_BOTH = {
    WRONG_VALUE: "Compare the formula with the one that fastgan.losses or fastgan.penalties states.",
    "halved": "Remove the factor 1/2, or pass the weight or scale that it stands for; ask 2 * loss where it is meant.",
    "doubled": "Remove the factor 2, or pass the weight or scale that it stands for.",
    "summed over rows instead of averaged": "Take the mean over the rows, or the weight grows with the batch size.",
}

OF_PENALTIES = {
    # what they compute from the critic's gradient
    "norm over the whole batch": "Flatten each sample and take one norm per row: gradient.flatten(1).norm(2, dim=1).",
    "norm over the channels only": "A norm over dim=1 is one per pixel: gradient.flatten(1) first. shape= asks flat rows.",
    "squared norm instead of the norm": "Take the square root of the sum of squares before the target is subtracted.",
    "L1 norm instead of the L2 norm": "Take the root of the sum of squares: gradient.flatten(1).norm(2, dim=1).",
    "target ignored": "Subtract the target from the norm before the square: with 1, norms below 1 are pulled up.",
    "norm instead of the squared norm": "R1 and R2 penalize the squared norm: leave out the square root.",
    "norms averaged before the square": "Subtract the target and square per row, and take the mean last.",
    "mean over features instead of the sum": "Sum the squares over a sample's features: .flatten(1).square().sum(1).",
    "gradient of the critic's mean instead of its sum": "Differentiate critic(x).sum(): a mean divides each gradient by B.",
    "weight ignored": "Multiply by the weight (gamma) that was asked for.",
    "halved convention lost": "R1 and R2 are gamma / 2 times the mean squared norm.",
    "one-sided where two-sided was asked": "Penalize norms below the target too: no relu or clamp of norm - target.",
    "two-sided where one-sided was asked": "Penalize norms above the target only: relu(norm - target) before the square.",
    # where they take the gradient
    NOT_ASKED: "Call the critic that is given, at points that require a gradient.",
    AT_REAL: "Move the points off the real rows: real + alpha (fake - real), or DRAGAN's noise.",
    AT_FAKE: "Take points between real and fake rows: real + alpha (fake - real), alpha uniform in [0, 1].",
    "taken off the line between real and fake": "Points are real + alpha (fake - real) and nothing else.",
    AT_WRONG_POINTS: "Take R1's gradient at the real rows and R2's at the fake rows, as they are.",
    ONE_ALPHA: "Draw one alpha per sample: torch.rand(B, 1, 1, 1).",
    ALPHA_PER_ELEMENT: "Draw one alpha per sample, torch.rand(B, 1, 1, 1): all its elements move together.",
    "alpha not uniform in [0, 1]": "Draw alpha by torch.rand, not torch.randn or a constant.",
    "noise normal instead of uniform": "Draw DRAGAN's noise by torch.rand_like, uniform in [0, 1).",
    "noise centred on the real rows": "DRAGAN's noise is uniform in [0, 1), not around 0.",
    "noise not uniform in [0, 1)": "Points are real + std_scale * real.std() * torch.rand_like(real), or on the way there.",
    "one noise value per sample": "Draw DRAGAN's noise for every element: torch.rand_like(real).",
    "std of each feature instead of the whole batch": "Take one standard deviation over all elements: real.std().",
    "std of each sample instead of the whole batch": "Take one standard deviation over all elements: real.std().",
    "std ignored": "Multiply the noise by real.std().",
    "std_scale ignored": "Multiply the noise by the std_scale that was asked for.",
    # what they leave behind
    NO_GRAPH: "Take the input gradient with create_graph=True and detach nothing, or the penalty trains nothing.",
    "wrong gradient by the critic's parameters": "Detach neither norms nor gradients: only real, fake and alpha are constants.",
    "slope not finite at zero gradient": "Use torch.linalg.vector_norm, or sqrt(sum + eps): the slope of sqrt(0) is infinite.",
    "requires_grad switched on in the caller's tensors": "Detach first: x = real.detach().requires_grad_().",
    MODIFIED: "Compute new tensors instead of in-place operations on real and fake.",
    CHANGED: "Leave weights, requires_grad and training mode alone, or put them back.",
    ".grad of the critic's parameters filled": "Use torch.autograd.grad with respect to the points instead of backward().",
    "value in half precision inside autocast": "Take norms of gradient.float() inside torch.autocast(enabled=False).",
}

OF_LOSSES = {
    # what they compute from the logits
    "sign flipped": "Both losses are minimised: return the negative.",
    "sides exchanged": "Exchange real and fake: the discriminator pulls real logits up, the generator fake ones.",
    "real side halved": "Remove the factor 1/2 of the real term, or halve both: the two sides weigh the same.",
    "fake side halved": "Remove the factor 1/2 of the fake term, or halve both: the two sides weigh the same.",
    "real side left out": "Add the real term: this loss has one for each side.",
    "fake side left out": "Add the fake term: this loss has one for each side.",
    "relu of a mean": "Take relu(1 - r) of each logit and the mean last: one bad logit hides behind others in a mean.",
    "loss of a mean": "Take the loss of each logit and the mean last: a loss of the mean logit is another number.",
    BCE_EXCHANGED: "Logits come first: binary_cross_entropy_with_logits(logits, target).",
    "sigmoid applied to the logits": "Pass the critic's output as it is: the loss takes logits, not probabilities.",
    "tanh applied to the logits": "Pass the critic's output as it is: a tanh never reaches the labels or the margin.",
    "saturating loss in place of the non-saturating one": "Its generator's loss is softplus(-fake), not -softplus(fake).",
    "non-saturating loss in place of the saturating one": "Its generator's loss is -softplus(fake), not softplus(-fake).",
    "means of the other side where pairs were asked": "Compare row by row, softplus(fake - real): no means.",
    "margin other than 1": "The hinge loss is relu(1 - real) + relu(1 + fake): its margin is 1 on both sides.",
    "sign of the real logits flipped": "The real term is relu(1 - real): it falls as real logits rise.",
    "sign of the fake logits flipped": "The fake term is relu(1 + fake): it falls as fake logits fall.",
    "loss of another kind": "Pass the kind that this loss is, or change its formula.",
    "label smoothing forgotten": "The real label is 1 - label_smoothing.",
    "label smoothing on both sides": "Smooth the real label only: the fake one stays 0.",
    "label smoothing not asked for": "The real label is 1 unless label_smoothing is given.",
    # what they do besides
    NO_SLOPE: "Keep the graph: no .item(), .detach(), torch.tensor(...) or no_grad on the way.",
    NO_REAL_SLOPE: "Detach no logits in the critic's loss: it has to learn from the real ones too.",
    NO_FAKE_SLOPE: "Detach the generator's images, and not their logits: the critic has to learn from them.",
    WRONG_SLOPES: "The backward is not the derivative of this value: look for a .detach(), or compare by gradcheck in fp64.",
    "ignores the upstream gradient": "Multiply the slopes by grad_output in backward.",
    "wrong at large logits": "Use softplus or logsigmoid of the logits: log(sigmoid(x)) saturates, and BCELoss with it.",
    "second derivative missing": "Compute backward by differentiable operations on the saved logits, not by a saved slope.",
    "second derivative wrong": "Check the backward's own derivative by torch.autograd.gradgradcheck in fp64.",
    "one tensor on both sides gets a wrong gradient": "Return each side's partial derivative, as of two tensors.",
    "a tensor in two losses gets a wrong gradient": "Keep what backward needs by ctx.save_for_backward alone.",
    OVERWRITES: "Write values and slopes into memory of their own.",
    "value in half precision": "Compute in fp32 and return it: logits.float() first.",
}

OF_STEPS = {
    "fakes not detached": "Give the critic fake.detach(), or backward adds the critic's loss to the generator's gradients.",
    "fakes detached in place": "Use fake.detach(), a new tensor: after detach_() the generator's turn has no graph.",
    NO_GRAPH_TO_CRITIC: "Return the loss itself: no .item(), .detach() or no_grad on the way.",
    "real rows train nothing": "Ask the critic at the real rows, and keep the graph of their logits.",
    "fake rows train nothing": "Ask the critic at the fake rows, and detach these rows, not their logits.",
    "loss not finite": "Take softplus or logsigmoid of logits, not logarithms of what can be 0.",
}

# right, by a convention that a reader of the numbers has to know
NOTES = {
    ONE_ELEMENT: "The value is right. Take .mean() or .squeeze() where a 0-d tensor is expected.",
    FIRST_OF_A_TUPLE: "What else was returned was not looked at. If the value is the sum of all, ask the sum.",
}
NOTES_OF_LOSSES = {
    BROADCASTS: "Right for logits of one shape. Of two shapes it makes an N x N table: refuse them.",
    NEEDS_AS_MANY: "Right for batches of one size: it pairs rows, where this kind takes the mean of each side.",
    DETACHED_MEAN: "A convention of ESRGAN's code: the same value, and each side's slopes are those of its"
    " own term. Plain torch and fastgan differentiate the means, too.",
    "means over the rows of maps": "A convention: each place of a map is compared with the mean of that place. The paper's mean"
    " is over all logits. For [N, 1] they are the same.",
    "each map averaged before the loss": "A convention: a map's mean is its sample's logit. For [N, 1] it is the same.",
    "targets 1, -1, 0 of the LSGAN paper": "Right for both networks together: the critic's labels 1 and -1, the generator's 0."
    " With labels 1 and 0 for the critic, the generator's is 1.",
    "relu(1 - f) for the generator": "A choice of Vocos and AudioCraft, not the hinge GAN's -f: no slope beyond logit 1.",
    "drift term on the real logits": "ProGAN's, which keeps the critic's outputs near 0. wgan alone has none.",
}
NOTES_OF_STEPS = {
    "backward called inside": "The caller calls the optimizer alone: a second backward raises, or adds the gradient again.",
}

ALL_NOTES = NOTES | NOTES_OF_LOSSES | NOTES_OF_STEPS
REMEDIES = OF_ANYTHING | OF_BOTH | OF_PENALTIES | OF_LOSSES | OF_STEPS | ALL_NOTES

"""Writes what TRL's GRPOTrainer computes, so that tests need neither it nor torch.

    pip install torch==2.13.0 trl==1.16.0
    python tests/golden/make_grpo.py

A minute on one core. Written with trl 1.16.0, transformers 5.24.0, torch 2.13.0. A
tiny random Qwen3 writes nothing: completions, rewards and the sampler's
log-probabilities are given in place of `_generate`, and all that follows is TRL's own
code: log-probabilities at a temperature, masks, advantages, corrections, loss, measures.
`grpo.npz` holds, for N completions of S tokens, D channels, V words:

    tokens int8 [N,S], 0 after the end; lengths int8 [N]; rewards float32 [B,G]
    hidden [N,S,D] and head [V,D], whose product is the logits of the model that learns;
    head_<who> and hidden_<who> of the model that wrote (old) and the frozen one
    (reference); sampled [N,S], the sampler's log-probabilities

and for each case of `grpo_cases` "<case>/loss", "<case>/advantages" [N], "<case>/grad"
[V,D] (of the head), and "<case>/<measure>".
"""

import tempfile

import numpy as np
import torch
from datasets import Dataset
from grpo_cases import CASES, GOLDEN, GROUP, GROUPS, SYNONYMS, TEMPERATURE, TOKENS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer

PAD, END, WORDS = 0, 1, 13
PROMPT = "w2 w3 w4"
# TRL's names of what it measures, and ours
MEASURES = {
    "clipped": "clip_ratio/region_mean",
    "kl": "kl",
    "equal_groups": "frac_reward_zero_std",
    "mismatch": "sampling/sampling_logp_difference/mean",
    "mismatch_max": "sampling/sampling_logp_difference/max",
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, ... with the numbers in their names."""
    words = models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w2")
    inner = Tokenizer(words)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=f"w{PAD}", eos_token=f"w{END}"
    )


def model(seed: int, near: Qwen3ForCausalLM | None = None) -> Qwen3ForCausalLM:
    """A random model, or one a step away from another."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=WORDS,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        tie_word_embeddings=False,
        initializer_range=0.6,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
    )
    made = Qwen3ForCausalLM(config).float()
    if near is not None:
        with torch.no_grad():
            for own, other in zip(made.parameters(), near.parameters(), strict=True):
                own.copy_(other + 0.06 * torch.randn_like(other))
    return made


def samples() -> dict[str, np.ndarray]:
    """Completions of which some end and some are cut, one group of equal rewards."""
    rng = np.random.default_rng(0)
    count = GROUPS * GROUP
    tokens = rng.integers(2, WORDS, (count, TOKENS))
    lengths = rng.integers(1, TOKENS + 1, count)
    # cut at the budget: as long as allowed, and no end token
    lengths[[1, 6, 13]] = TOKENS
    ended = np.setdiff1d(np.arange(count), [1, 6, 13])
    tokens[ended, lengths[ended] - 1] = END
    tokens[np.arange(TOKENS) >= lengths[:, None]] = PAD
    rewards = rng.normal(size=(GROUPS, GROUP)).astype(np.float32)
    rewards[2] = 1.7
    return {
        "tokens": tokens.astype(np.int8),
        "lengths": lengths.astype(np.int8),
        "rewards": rewards,
    }


class Given(GRPOTrainer):
    """TRL's trainer, with completions given instead of generated."""

    given: dict[str, np.ndarray]

    def _generate(self, prompts: list) -> tuple:
        """What the parent's `_generate` returns."""
        rows = range(len(prompts))
        lengths = self.given["lengths"]
        ids = [self.given["tokens"][i, : lengths[i]].tolist() for i in rows]
        sampled = None
        if "sampled" in self.given:
            sampled = [self.given["sampled"][i, : lengths[i]].tolist() for i in rows]
        prompt = self.processing_class(PROMPT)["input_ids"]
        texts = [self.processing_class.decode(row) for row in ids]
        return [prompt] * len(ids), ids, None, texts, sampled, {}, None, []


def trainer(case: dict, loss: str, given: dict, wrote: Qwen3ForCausalLM) -> Given:
    """TRL's trainer with the settings of a case."""
    count = len(given["lengths"])
    correction = case.get("correction", "none")
    asked = {}
    if correction != "none":
        asked = {
            "vllm_importance_sampling_mode": correction,
            "vllm_importance_sampling_clip_max": case["correction_cap"],
        }
    arguments = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=count,
        gradient_accumulation_steps=1,
        num_generations=GROUP,
        # the samples are used twice, so that who wrote is not who learns
        num_iterations=2,
        max_completion_length=TOKENS,
        temperature=TEMPERATURE,
        beta=case.get("kl", 0.0),
        use_bias_correction_kl=case.get("unbiased_kl", False),
        epsilon=case["clip_low"],
        epsilon_high=case["clip_high"],
        loss_type=loss,
        scale_rewards=case.get("scale", "group"),
        importance_sampling_level=case.get("importance", "token"),
        mask_truncated_completions=case.get("mask_truncated", False),
        **asked,
    )
    made = Given(
        model=wrote,
        reward_funcs=lambda completions, **_: given["rewards"].reshape(-1).tolist(),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [PROMPT] * count}),
        processing_class=tokenizer(),
    )
    made.given = given
    made.current_gradient_accumulation_steps = 1
    # the correction is written for vLLM, but needs only the sampler's log-probabilities
    made.use_vllm = correction != "none"
    return made


def subset(given: dict[str, np.ndarray], case: dict) -> dict[str, np.ndarray]:
    """The samples, without groups of equal rewards if the case leaves them out."""
    kept = np.ones(GROUPS, bool)
    if case.get("drop_equal"):
        kept = np.ptp(given["rewards"], axis=1) > 0
    rows = kept.repeat(GROUP)
    found = {k: v[kept if k == "rewards" else rows] for k, v in given.items()}
    if case.get("correction", "none") == "none":
        del found["sampled"]
    return found


def answer(case: dict, loss: str, given: dict, who: dict) -> dict[str, np.ndarray]:
    """Loss, advantages, gradient and measures of one case."""
    learner = model(0)
    learner.load_state_dict(who["old"].state_dict())
    # TRL loads the frozen model from where the learner says it came from
    with tempfile.TemporaryDirectory() as folder:
        who["reference"].save_pretrained(folder)
        learner.config._name_or_path = folder
        given = subset(given, case)
        made = trainer(case, loss, given, learner)
    made.model.train()
    batch = made._generate_and_score_completions(
        [{"prompt": PROMPT}] * len(given["lengths"])
    )
    made.model.load_state_dict(who["new"].state_dict())
    result = made._compute_loss(made.model, batch)
    result.backward()
    measured = made._metrics["train"]
    found = {
        "loss": np.float64(result.item()),
        "advantages": batch["advantages"].numpy(),
        "grad": made.model.lm_head.weight.grad.numpy(),
    }
    for ours, theirs in MEASURES.items():
        if measured.get(theirs):
            found[ours] = np.float64(measured[theirs][-1])
    return found


@torch.no_grad()
def states(of: Qwen3ForCausalLM, tokens: np.ndarray) -> np.ndarray:
    """Hidden states that predict the completions, [N,S,D]."""
    prompt = tokenizer()(PROMPT)["input_ids"]
    ids = torch.tensor(np.c_[np.tile(prompt, (len(tokens), 1)), tokens])
    return of.model(ids).last_hidden_state[:, len(prompt) - 1 : -1].numpy()


def main() -> None:
    """Writes the golden file beside this one."""
    torch.set_num_threads(1)
    old = model(1)
    who = {"old": old, "new": model(2, near=old), "reference": model(3, near=old)}
    golden = samples()
    for name, of in who.items():
        mark = "" if name == "new" else f"_{name}"
        golden[f"hidden{mark}"] = states(of, golden["tokens"])
        golden[f"head{mark}"] = of.lm_head.weight.detach().numpy()
    scores = golden["hidden_old"] @ golden["head_old"].T / TEMPERATURE
    wrote = torch.log_softmax(torch.tensor(scores), -1).numpy()
    chosen = np.take_along_axis(wrote, golden["tokens"][..., None].astype(int), -1)
    noise = np.random.default_rng(1).normal(size=chosen.shape[:2])
    golden["sampled"] = np.minimum(chosen[..., 0] + 0.2 * noise, 0).astype(np.float32)
    given = {k: golden[k] for k in ("tokens", "lengths", "rewards", "sampled")}
    asked = {name: (case, case.get("loss", "dapo")) for name, case in CASES.items()}
    asked |= {name: (CASES[ours], name) for name, ours in SYNONYMS.items()}
    for name, (case, loss) in asked.items():
        for key, value in answer(case, loss, given, who).items():
            golden[f"{name}/{key}"] = value
        print(name, golden[f"{name}/loss"])
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()

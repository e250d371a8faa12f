"""Whether the number follows from the thought: edit a claim, see the number move.

A model writes a thought about a query; one clause of it is exchanged for another one of
the same kind, and the model goes on from there as if it had written that. If the answer
stays, the thought is decoration. As a control the clause is also exchanged for another
wording of the same claim, which should change nothing.

The idea: interventions on chains of thought as in Lanham et al. (arXiv 2307.13702),
section 2.3 ("adding mistakes"). N edited thoughts, L prompt tokens, S completion tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.common.rewarder import bin_centers
from soler1_jax.data import batches, text
from soler1_jax.data.records import Episode
from soler1_jax.model.functional import Functional, Params
from soler1_jax.sampling.grammar import Grammar, progress_grammar
from soler1_jax.synthesis import claims, phrases, thoughts
from soler1_jax.tokenizers import sentencepiece
from soler1_jax.training import curriculum, sft, supervise, validation

# Values of a kind from the one that speaks of least progress to that of most. A kind
# without such an order is not edited.
ORDERED: dict[str, tuple[str, ...]] = {
    "motion": ("farther", "same", "nearer"),
    "contact": ("no", "near", "yes"),
    "grasp": ("no", "yes"),
    "object": ("away", "still", "toward"),
    "state": ("worse", "none", "some", "most", "done"),
    "remains": ("reach", "act", "finish", "nothing"),
    "trend": ("down", "same", "up"),
}
_NUMBER = 4  # a sign and three digits


class Edit(NamedTuple):
    """One exchanged clause.

    Attributes:
      query: index of the query among those of all episodes.
      kind: of the claim.
      before, after: its values; equal in a rewording.
      thought: the text with the clause exchanged.
    """

    query: int
    kind: str
    before: str
    after: str
    thought: str


def edits_of(thought: str, verb: str, query: int = 0) -> list[Edit]:
    """All single exchanges of a thought, one wording each.

    Args:
      thought: clauses joined by commas, as the model writes them.
      verb: of the task, for the wording.
      query: see `Edit`.
    """
    clauses = [clause.strip() for clause in thought.split(",")]
    found = []
    for place, clause in enumerate(clauses):
        for kind, before in claims.extract(clause).items():
            for after in ORDERED.get(kind, ()):
                options = phrases.phrases(kind, after, thoughts.group_of(verb))
                filled = [o.replace("{n}", phrases.PRONOUN) for o in options]
                wordings = [o for o in filled if o != clause]
                if not wordings:
                    continue
                edited = [*clauses[:place], wordings[0], *clauses[place + 1 :]]
                found.append(Edit(query, kind, before, after, ", ".join(edited)))
    return found


def intervene(
    model: Functional,
    params: Params,
    tokenizer: sentencepiece.Tokenizer,
    episodes: Sequence[Episode],
    *,
    batch: int = 8,
) -> dict[str, dict[str, Any]]:
    """Edits the model's own greedy thoughts and reads the answers that follow.

    Args:
      model: functions of a model that writes thoughts.
      params: its weights.
      tokenizer: of the model.
      episodes: E records of equal length; those without progress queries are left out.
      batch: episodes at once.

    Returns:
      kind -> figures in percent of progress, for the written "number" and for the
      value head's "expected" value after the thought: "moved", the mean absolute change
      over edits; "reworded", the same where the claim stayed; "slope", the mean
      change for one place up in ORDERED; "follows", the share of edits whose answer
      moved, and moved the way the claim did; "still", the share whose answer is what it
      was. And "edits", how many there were.
    """
    episodes = [e for e in episodes if any(q.source == "progress" for q in e.queries)]
    if not episodes:
        return {}
    asker = _Asker(model, tokenizer, episodes)
    rows: list[tuple[Edit, np.ndarray]] = []
    for low in range(0, len(episodes), batch):
        rows += asker.edited(params, episodes[low : low + batch])
    return {kind: _figures(kind, rows) for kind in ORDERED if _of(kind, rows)}


class _Asker:
    """Makes a model write, and finish what was written for it."""

    def __init__(
        self,
        model: Functional,
        tokenizer: sentencepiece.Tokenizer,
        episodes: Sequence[Episode],
    ) -> None:
        self.tokenizer = tokenizer
        self.config = batches.BatchConfig(
            **curriculum.patches(model.config),
            **curriculum.lengths(episodes, tokenizer, 0.0),
        )
        budget = supervise.thought_budget(self.config)
        grammar = progress_grammar(model.config.text.vocab_size, budget)
        self.answer = validation.make_answer(model.module, grammar)
        self.finish = make_finish(model, grammar)
        # An edited thought is longer by one clause at most.
        clause = max(len(tokenizer.encode(c)) for c in thoughts.vocabulary())
        self.room = self.config.completion_length + clause

    def edited(
        self, params: Params, episodes: Sequence[Episode]
    ) -> list[tuple[Edit, np.ndarray]]:
        """Edits of these episodes with their changes of (number, expected)."""
        exam = validation.make_exam(
            episodes, self.tokenizer, self.config, len(episodes)
        )
        (shown,) = exam.batches
        said = jax.device_get(self.answer(params, shown))
        queries = exam.progress.shape[1]
        edits: list[Edit] = []
        for index, tokens in enumerate(said["tokens"]):
            parts = text.split_completion(self.tokenizer.decode(tokens))
            verb = episodes[index // queries].verb
            edits += edits_of(parts[0], verb, index) if parts else []
        before = np.stack([said["progress"], said["expected"]], axis=1)
        after = self._finished(params, shown, edits, len(before))
        changes = after - before[[e.query for e in edits]]
        return list(zip(edits, changes, strict=True))

    def _finished(
        self, params: Params, shown: Mapping[str, Any], edits: list[Edit], count: int
    ) -> np.ndarray:
        """(number, expected) after each edited thought, float32 [N, 2].

        Edits are laid out in rounds of at most one a query, so that one compiled
        function serves all.
        """
        rounds: dict[int, int] = {}
        answers = np.zeros((len(edits), 2), np.float32)
        layers: list[list[int]] = []
        for place, edit in enumerate(edits):
            layer = rounds.get(edit.query, 0)
            rounds[edit.query] = layer + 1
            while layer >= len(layers):
                layers.append([])
            layers[layer].append(place)
        for layer in layers:
            ids, lengths = self._ids([edits[p] for p in layer], count)
            said = jax.device_get(self.finish(params, shown, ids, lengths))
            for place in layer:
                answers[place] = said[edits[place].query]
        return answers

    def _ids(self, edits: list[Edit], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of thoughts up to `<answer>`, int32 [count, S], and their lengths."""
        ids = np.zeros((count, self.room), np.int32)
        lengths = np.ones(count, np.int32)
        for edit in edits:
            whole = self.tokenizer.encode(text.completion(edit.thought, ""))
            row = whole[: whole.index(sentencepiece.ANSWER) + 1]
            ids[edit.query, : len(row)] = row
            lengths[edit.query] = len(row)
        return ids, lengths


def make_finish(model: Functional, grammar: Grammar) -> Any:
    """Returns a jitted (params, batch, ids, lengths) -> answers.

    Its arguments are a batch of data/batches.py with E*Q = N queries, int32 [N, S]
    tokens that end in `<answer>` with four places of room, and int32 [N], how many there
    are. Its result, float32 [N, 2] in percent, is the number that the model writes
    there, greedily, and the expected value of its value head.
    """

    def finish(
        params: Params, batch: Mapping[str, Any], ids: jax.Array, lengths: jax.Array
    ) -> jax.Array:
        bound = model.module(params)
        prefix, _ = sft.ask(bound, sft.look(bound, batch), batch)
        rows = jnp.arange(len(ids))
        state = jnp.full(len(ids), grammar.answer_state)
        expected = None
        for place in range(_NUMBER):
            seen = jnp.arange(ids.shape[1]) < (lengths + place + 1)[:, None]
            said = bound.logits(prefix, ids, seen)
            if expected is None:
                bins = jax.nn.softmax(said.value_logits[rows, lengths])
                expected = bins @ bin_centers()
            logits = said.logits[rows, lengths + place]
            token = jnp.argmax(grammar.mask(logits, state), axis=-1)
            state = grammar.advance(state, token)
            ids = ids.at[rows, lengths + place].set(token)
        digits = ids[rows[:, None], lengths[:, None] + jnp.arange(_NUMBER)]
        size = (digits[:, 1:] - sentencepiece.FIRST_DIGIT) @ jnp.asarray([100, 10, 1])
        number = jnp.where(digits[:, 0] == sentencepiece.MINUS, -size, size)
        return jnp.stack([number.astype(jnp.float32), expected], axis=1)

    return jax.jit(finish)


def _of(
    kind: str, rows: Sequence[tuple[Edit, np.ndarray]]
) -> list[tuple[Edit, np.ndarray]]:
    return [row for row in rows if row[0].kind == kind]


def _figures(kind: str, rows: Sequence[tuple[Edit, np.ndarray]]) -> dict[str, Any]:
    rows = _of(kind, rows)
    order = ORDERED[kind]
    steps = np.array([order.index(e.after) - order.index(e.before) for e, _ in rows])
    changes = np.stack([change for _, change in rows])
    edited = steps != 0
    table: dict[str, Any] = {"edits": int(edited.sum())}
    for column, name in enumerate(("number", "expected")):
        change = changes[:, column]
        moved = change[edited]
        along = moved * np.sign(steps[edited])
        table[name] = {
            "moved": _mean(np.abs(moved)),
            "reworded": _mean(np.abs(change[~edited])),
            "slope": _mean(moved / steps[edited]),
            "follows": _mean(along > 0.5),
            "still": _mean(np.abs(moved) <= 0.5),
        }
    return table


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None

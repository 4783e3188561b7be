"""Records the answers of beam searches by transformers.

    .venv/bin/python tests/parity/make_beams.py        # tests/parity/beams.json

`table`: a model whose logits follow from the last token alone, by the formula in `logit`. It makes many short answers with
close scores. `tiny`: the built-in model in f32.
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GenerationMixin, PretrainedConfig
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

OUTPUT = pathlib.Path(__file__).parent / "beams.json"
MODEL = pathlib.Path(__file__).parents[2] / "agent/engine/builtin/tiny"
VOCAB = 40
ENDS = [7, 11]
QUESTIONS = ["What is an epoch?", "Who sends plans to the ranks?", "What happens when a worker dies?"]


def logit(last: int, token: int) -> float:
    """The number that the test computes too."""
    return ((last * 7919 + token * 104729 + last * token * 31 + 17) % 1009) / 300


class Config(PretrainedConfig):
    model_type = "table"


class Table(PreTrainedModel, GenerationMixin):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        rows = [[logit(last, token) for token in range(VOCAB)] for last in range(VOCAB)]
        self.rows = torch.nn.Parameter(torch.tensor(rows, dtype=torch.float64))
        self.post_init()

    def forward(self, input_ids, **_):
        return CausalLMOutput(logits=self.rows[input_ids])

    def _reorder_cache(self, cache, _):
        return cache


@torch.inference_mode()
def search(model, prompt, beams, length_penalty, early_stopping, max_tokens, ends):
    """Returns one entry of the record."""
    config = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, length_penalty=length_penalty, early_stopping=early_stopping,
        max_new_tokens=max_tokens, eos_token_id=ends or None, pad_token_id=0, do_sample=False, use_cache=False,
        return_dict_in_generate=True, output_scores=True,
    )
    out = model.generate(torch.tensor([prompt]), generation_config=config)
    answers = []
    for row, score in zip(out.sequences.tolist(), out.sequences_scores.tolist()):
        ids = row[len(prompt) :]
        stop = next((at for at, token in enumerate(ids) if token in ends), None)
        answers.append({"tokens": ids if stop is None else ids[: stop + 1], "score": round(score, 5)})
    return dict(prompt=prompt, beams=beams, length_penalty=length_penalty, early_stopping=early_stopping,
                max_tokens=max_tokens, ends=ends, answers=answers)


def is_close(entry):
    """Returns true if two answers of a search are too close for f32."""
    scores = [answer["score"] for answer in entry["answers"]]
    return any(a - b < 1e-3 for a, b in zip(scores, scores[1:]))


def main() -> None:
    table = Table(Config()).eval()
    searches = []
    for beams in (2, 3, 5):
        for length_penalty in (0.0, 0.5, 1.0, 2.0, -1.0):
            for early_stopping in (False, True, "never"):
                for max_tokens, ends in ((1, ENDS), (6, ENDS), (12, ENDS[:1]), (5, [])):
                    prompt = [(3 + len(searches)) % VOCAB]
                    searches.append(search(table, prompt, beams, length_penalty, early_stopping, max_tokens, ends))
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    ends = tokenizer.encode("<|end|>", add_special_tokens=False)
    tiny = []
    for question in QUESTIONS:
        prompt = tokenizer.encode(f"<|user|>{question}<|end|><|assistant|>", add_special_tokens=False)
        for beams, length_penalty, early_stopping in ((3, 1.0, False), (4, 0.0, True), (2, 2.0, "never")):
            tiny.append(search(model, prompt, beams, length_penalty, early_stopping, 40, ends))
    lines = {name: "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]" for name, entries in
             (("table", [s for s in searches if not is_close(s)]), ("tiny", [s for s in tiny if not is_close(s)]))}
    OUTPUT.write_text("{" + ", ".join(f'"{name}": {text}' for name, text in lines.items()) + "}\n")
    print({name: text.count("beams") for name, text in lines.items()})


if __name__ == "__main__":
    main()

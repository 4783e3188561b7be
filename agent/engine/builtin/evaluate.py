"""Asks `tiny/` everything, with transformers in f32, and records what it says for the parity tests.

    python evaluate.py [--quiet] [--temperature 0.7]

Prints every question with its answer, the share of held-out questions answered on topic, and
writes `expected.json`. An answer is on topic when, of all answers in the corpus, the nearest by
words (intersection over union) belongs to the topic that was asked for.
"""

import argparse
import json
import pathlib
import random

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils.chat_template_utils import render_jinja_template

from corpus import questions, topics

FOLDER = pathlib.Path(__file__).parent
TINY = FOLDER / "tiny"
PER_TOPIC = 12  # held-out questions asked of each topic
BATCH, ANSWER = 32, 80
RECORDED = [
    ["What happens when a worker dies?"],
    ["What does the head do?"],
    ["hi"],
    ["What is a rank?", "And what is an epoch?"],
    ["What is the capital of France?"],
    ["Which port does it use?"],
]


class Tiny:
    def __init__(self):
        self.model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
        self.wording = json.loads((TINY / "tokenizer_config.json").read_text())

    def render(self, messages):
        """The prompt of a conversation, by the model's own template."""
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=self.wording["chat_template"], add_generation_prompt=True,
            bos_token=self.wording["bos_token"], eos_token=self.wording["eos_token"],
        )
        return rendered[0]

    @torch.inference_mode()
    def answer(self, conversations, temperature=0.0):
        """Token ids of the answer to each conversation, end token included."""
        out = []
        for start in range(0, len(conversations), BATCH):
            prompts = [self.tokenizer.encode(self.render(c)).ids for c in conversations[start : start + BATCH]]
            longest = max(map(len, prompts))
            ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
            how = dict(do_sample=False, temperature=None)
            if temperature:
                how = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
            how.update(max_new_tokens=ANSWER, pad_token_id=0, eos_token_id=1)
            made = self.model.generate(ids, attention_mask=mask, **how)
            for row in made[:, longest:].tolist():
                out.append(row[: row.index(1) + 1] if 1 in row else row)
        return out

    def say(self, ids):
        return self.tokenizer.decode(ids)


def words(text):
    return set(text.lower().replace(",", " ").replace(".", " ").split())


def nearest(answer, known):
    """The topic whose answer shares the largest part of its words with `answer`."""
    said = words(answer)
    overlap = lambda text: len(said & words(text)) / max(1, len(said | words(text)))
    return max((overlap(text), topic.name) for topic in known.values() for text in topic.answers)[1]


def paraphrases(known):
    """`(topic, question)`: a sample of the questions that the corpus holds back from training."""
    draw = random.Random(3)
    asked = []
    for topic in known.values():
        kept = [question for part in topic.split()[1] for question in part]
        asked += [(topic.name, question) for question in draw.sample(kept, min(PER_TOPIC, len(kept)))]
    return asked


def ask(tiny, known, title, asked, temperature, quiet):
    answers = tiny.answer([[dict(role="user", content=question)] for _, question in asked], temperature)
    texts = [tiny.say(ids) for ids in answers]
    right = [nearest(text, known) == topic for text, (topic, _) in zip(texts, asked)]
    for (topic, question), text, good in zip(asked, texts, right):
        if not quiet or not good:
            print(f"{'  ' if good else '! '}[{topic}] {question}\n      {text}")
    verbatim = {text for topic in known.values() for text in topic.answers}
    own = sum(text not in verbatim for text in texts)
    ended = sum(ids[-1] == 1 for ids in answers)
    print(f"{title}, temperature {temperature}: {sum(right)} of {len(asked)} on topic ({sum(right) / len(asked):.1%}), "
          f"{own} not word for word from the corpus, {ended} ended by themselves", flush=True)


@torch.inference_mode()
def record(tiny):
    """Greedy answers, one by one and without a cache's help checked, into expected.json."""
    entries = []
    for questions in RECORDED:
        messages = []
        for question in questions:
            messages.append(dict(role="user", content=question))
            ids = tiny.answer([messages])[0]
            answer = tiny.say(ids)
            if question is not questions[-1]:
                messages.append(dict(role="assistant", content=answer))
        rendered = tiny.render(messages)
        prompt = tiny.tokenizer.encode(rendered).ids
        greedy = tiny.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            temperature=None, max_new_tokens=48, eos_token_id=None, pad_token_id=0,
        )[0, len(prompt):].tolist()
        logits = tiny.model(torch.tensor([prompt + greedy]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(2).values
        margins = (best[:, 0] - best[:, 1]).tolist()
        # Beyond the end token the model has no opinion, and near-ties could flip by rounding.
        sure = next((i for i, margin in enumerate(margins) if margin < 2e-3), len(margins))
        assert logits.argmax(-1).tolist()[:sure] == greedy[:sure]
        entries.append(dict(messages=messages, rendered=rendered, prompt=prompt, greedy=greedy[:sure], text=answer,
                            min_margin=float(f"{min(margins[:sure]):.2e}")))
        print(f"recorded {questions}: {sure} tokens, margin {min(margins[:sure]):.1e}: {answer}")
    lines = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    (FOLDER / "expected.json").write_text(f'{{"dtype": "float32", "ignore_eos": true, "conversations": [\n  {lines}\n]}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quiet", action="store_true", help="print only the answers that are off topic")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the second round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(5)
    tiny, known = Tiny(), topics()
    for temperature in (0.0, args.temperature):
        for file in ("fresh.txt", "development.txt"):
            ask(tiny, known, file, questions(file), temperature, args.quiet)
        ask(tiny, known, "held-out paraphrases", paraphrases(known), temperature, args.quiet or temperature > 0)
    record(tiny)


if __name__ == "__main__":
    main()

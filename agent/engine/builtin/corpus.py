"""Reads `corpus/` and makes conversations from it: questions in many wordings, answers in several.

A topic is a section `== name` of a file in `corpus/`, with lines
    np: noun phrases | that fill | the question templates below
    q: a question, {one|another|a third} wording of a part
    a: an answer
    bare: yes          (small talk: its questions take no introduction)
Every question belongs to training or to the held-out part by a hash of its text, so that the
same question is never in both.
"""

import itertools
import pathlib
import random
import re
import zlib
from dataclasses import dataclass, field

FOLDER = pathlib.Path(__file__).parent / "corpus"
# How often a topic comes up (others: 1): what newcomers ask first, and what cannot be listed.
FREQUENT = dict(unknown=5, lockstep=2.5, head=2.5, death=1.8, ask=1.5, start=1.5, hello=1.3, who=1.3)
HELD_OUT = 7  # one question in so many is never trained on

ASKING = """what is {n}?|what are {n}?|explain {n}|tell me about {n}|what does {n} mean?|can you explain {n}?|describe {n}
define {n}|I do not understand {n}|how does {n} work?|what's {n}?|{n} - what is that?|what about {n}?|{n}?|{n}
I want to know more about {n}|help me understand {n}|what is meant by {n}?|give me a short explanation of {n}
what do you know about {n}?|what is {n} in Lockstep?|what is {n} good for?|please explain {n} to me
could you describe {n}?|I have never heard of {n}|say something about {n}|why do I need {n}?
what exactly is {n}?|I have a question about {n}|what is the purpose of {n}?|in Lockstep, what is {n}?"""
BEFORE = """please tell me: |hi, |hello! |can you tell me |I am new here. |quick question: |I would like to know |so, 
ok, and |sorry, |do you know |one more thing: |and |hey, |just curious: |I was wondering, |tell me, |well, 
in Lockstep, |could you tell me |next question: |Question: |please, |explain: """
AFTER = (
    " please| in simple words| in Lockstep| thanks| briefly| I am confused| in one sentence| exactly| then| again"
    "| actually| here| today| if I may ask"
)
SYSTEMS = """You are a helpful assistant.|You are a helpful assistant|You answer questions about Lockstep.|Be brief.
Answer in one or two sentences.|You are a friendly assistant who explains Lockstep to newcomers.
Answer the question.|You are an expert in distributed systems.|Be polite and precise."""


def lines(text):
    return [part for line in text.split("\n") for part in line.split("|")]


@dataclass
class Topic:
    name: str
    answers: list = field(default_factory=list)
    nouns: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    bare: bool = False

    def split(self):
        """Questions to train on, and questions held out: each as (hand-written, from templates)."""
        written = [spelled for question in self.asked for spelled in spell(question)]
        made = [form.replace("{n}", noun) for form in lines(ASKING) for noun in self.nouns]
        made = [question for question in made if question not in written]
        if self.name == "unknown":
            written, made = [], written
        chosen = lambda part, which: [question for question in part if held_out(question) is which]
        return tuple((chosen(written, which), chosen(made, which)) for which in (False, True))

    def pools(self):
        """Training questions in groups, one for each line of the corpus and one for the templates, with their weights."""
        (written, made), _ = self.split()
        groups = [[q for q in spell(line) if not held_out(q)] for line in self.asked] if written or self.bare else []
        groups = [group for group in groups if group]
        weights = [len(group) ** 0.5 for group in groups]
        if made and self.name != "unknown":
            groups, weights = [*groups, made], [*weights, 0.5 * sum(weights)]
        return groups, weights


def bare_words(question):
    return question.lower().rstrip("?!. ")


def questions(file):
    """`(topic, question)` of a file in held_out/."""
    read = [line.partition(": ") for line in (FOLDER.parent / "held_out" / file).read_text().splitlines()]
    return [(topic, question) for topic, _, question in read if not topic.startswith("#")]


KEPT_BACK = {bare_words(question) for file in ("fresh.txt", "development.txt") for _, question in questions(file)}


def held_out(question):
    return zlib.crc32(question.encode()) % HELD_OUT == 3 or bare_words(question) in KEPT_BACK


def spell(question):
    """Every wording of `question` with its `{a|b}` parts resolved."""
    parts = re.split(r"\{([^{}]*\|[^{}]*)\}", question)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return [re.sub(r" +(?=\?|$)", "", "".join(chosen)) for chosen in itertools.product(*choices)]


def elsewhere():
    """Questions about anything else, from `elsewhere.txt`."""
    asked, lists = [], {}
    for line in (FOLDER / "elsewhere.txt").read_text().splitlines():
        key, _, value = line.partition(": ")
        if key == "q":
            asked.append(value)
        elif not line.startswith("#"):
            lists[key] = "|".join(part.strip() for part in value.split("|"))
    fill = lambda question: re.sub(r"\{(\w+)\}", lambda m: "{" + lists[m[1]] + "}", question)
    return [fill(question) for question in asked]


def topics():
    """Every topic by name."""
    read = {}
    for file in sorted(FOLDER.glob("*.txt")):
        if file.name == "elsewhere.txt":
            continue
        for line in file.read_text().splitlines():
            key, _, value = line.partition(": ")
            if line.startswith("== "):
                topic = read[line[3:]] = Topic(line[3:])
            elif key == "np":
                topic.nouns += [noun.strip() for noun in value.split("|")]
            elif key in ("q", "a"):
                (topic.asked if key == "q" else topic.answers).append(value)
            elif key == "bare":
                topic.bare = True
    read["unknown"].asked = elsewhere()
    return read


class Conversations:
    """Draws conversations for training."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.topics = list(topics().values())
        self.pools = {topic.name: topic.pools() for topic in self.topics}
        self.weights = [FREQUENT.get(topic.name, 1) for topic in self.topics]

    def question(self, topic):
        groups, weights = self.pools[topic.name]
        text = self.random.choice(self.random.choices(groups, weights)[0])
        if not topic.bare or topic.name == "unknown":
            if self.random.random() < 0.3:
                text = self.random.choice(lines(BEFORE)) + text
            if self.random.random() < 0.12:
                stem, mark = (text[:-1], "?") if text.endswith("?") else (text, "")
                text = stem + self.random.choice(AFTER.split("|")) + mark
        return self.worn(text)

    def worn(self, text):
        """`text` as people type it: case, marks, a slip of the finger."""
        draw = self.random.random
        case = draw()
        if case < 0.45:
            text = text[:1].upper() + text[1:]
        elif case < 0.6:
            text = text.lower()
        elif case < 0.63:
            text = text.upper()
        mark = draw()
        if mark < 0.2:
            text = text.rstrip("?")
        elif mark < 0.25:
            text = text.rstrip("?") + self.random.choice([" ?", "??", ".", "!", "?!", "..."])
        if draw() < 0.12 and len(text) > 6:
            at = self.random.randrange(1, len(text) - 1)
            before, letter, after = text[: at - 1], text[at - 1 : at + 1], text[at + 1 :]
            text = before + self.random.choice((letter[0], letter + letter[1], letter[::-1])) + after
        return text

    def conversation(self):
        """`[{role, content}, …]`, ending with an answer."""
        messages = []
        if self.random.random() < 0.3:
            messages.append(dict(role="system", content=self.random.choice(lines(SYSTEMS))))
        turns = self.random.choices((1, 2, 3, 5), (70, 20, 7, 3))[0]
        for _ in range(turns):
            topic = self.random.choices(self.topics, self.weights)[0]
            messages.append(dict(role="user", content=self.question(topic)))
            messages.append(dict(role="assistant", content=self.random.choice(topic.answers)))
        return messages

    def prose(self):
        """Answers of one topic in a row, as plain text: what the model continues without a template."""
        topic = self.random.choice(self.topics)
        return " ".join(self.random.sample(topic.answers, 2))

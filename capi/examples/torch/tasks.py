"""Questions about a long context with one right answer each: needles in a text, lines of a list, passages recalled."""
import random

ADJECTIVES = "amber azure brisk calm coral dusty eager early fancy frozen gentle giant golden hidden humble icy".split()
NOUNS = "anchor badger bakery barrel basin beacon bridge cabin candle canyon castle cellar chapel cliff".split()
KINDS = ["secret code", "magic number", "locker number", "access key", "ticket number"]


def _number(draw):
    return "".join(str(draw.randrange(10)) for _ in range(6))


def make(kind, encode, corpus, tokens, questions, seed):
    """A context of fewer than `tokens` token ids, and pairs (ids that ask, ids of the answer)."""
    draw = random.Random(seed)
    start = draw.randrange(max(1, len(corpus) - tokens))
    text = corpus[start:start + tokens - 64]
    if kind == "recall":
        mark = encode("\n\nRecall the passage: ")
        places = [draw.randrange(len(text) - 600) for _ in range(questions)]
        return text, [(mark + text[p:p + 12], text[p + 12:p + 28]) for p in places]
    if kind == "lines":
        context, facts = [], []
        while len(context) < tokens - 64:
            facts.append(("".join(draw.choices("abcdefghjkmnpqrstuvwxyz", k=5)), _number(draw)))
            context += encode(f"{facts[-1][0]}: {facts[-1][1]}\n")
        return context, [(encode(f"\nLook up {key}: "), encode(value)) for key, value in draw.sample(facts, questions)]
    names = [(k, a, n) for k in KINDS for a in ADJECTIVES for n in NOUNS]
    facts = [(*name, _number(draw)) for name in draw.sample(names, 160)]
    text = text[:tokens - 64 - 24 * len(facts)]
    places = sorted(draw.randrange(len(text)) for _ in facts)
    context, at = [], 0
    for place, (what, adjective, noun, value) in zip(places, facts):
        context += text[at:place] + encode(f"\n\nThe {what} of the {adjective} {noun} is {value}.\n\n")
        at = place
    ask = "\n\nQuestion: What is the {0} of the {1} {2}?\nAnswer: The {0} of the {1} {2} is"
    return context + text[at:], [(encode(ask.format(*fact)), encode(f" {fact[3]}"))
                                 for fact in draw.sample(facts, questions)]

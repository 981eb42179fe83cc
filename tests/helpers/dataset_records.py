"""A record of every published format, as its files have it."""

from __future__ import annotations

COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The place where {} was founded is",
        "relation_id": "P740",
        "target_new": {"str": "Toronto", "id": None},
        "target_true": {"str": "Leeds", "id": None},
        "subject": "Delta 5",
    },
    "paraphrase_prompts": ["It rained. Delta 5 was established in", "Delta 5 was created in"],
    "neighborhood_prompts": ["The Dunwells was created in", "This Et Al was formed in", "The Dunwells was created in"],
    "attribute_prompts": ["Zeds Dead, founded in"],
    "generation_prompts": ["Delta 5 originated from"],
}
ZSRE = {
    "subject": "Uromi",
    "src": "In what country is Uromi located?",
    "pred": "Nigeria",
    "rephrase": "In which country can Uromi be found?",
    "alt": "Poland",
    "answers": ["Nigeria", "Federal Republic of Nigeria"],
    "loc": "nq question: who wrote the guitar solo in beat it",
    "loc_ans": "Eddie Van Halen",
    "cond": "Nigeria >> Poland || In what country is Uromi located?",
}
KNOWEDIT = {
    "subject": "Saskia Mulder",
    "prompt": "The language used by Saskia Mulder is",
    "target_new": "Hindi",
    "ground_truth": "Dutch",
    "rephrase_prompt": "Saskia Mulder used to communicate in",
    "portability": {
        "Reasoning": [
            {
                "prompt": "The language family of the language used by Saskia Mulder is",
                "ground_truth": [["Indo-Aryan", "Indo-Aryan languages"]],
            }
        ]
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The profession of Saskia Mulder is", "ground_truth": [["actor"]]}],
        "Forgetfulness": [],
    },
}
MQUAKE = {
    "case_id": 1,
    "requested_rewrite": [
        {**COUNTERFACT["requested_rewrite"], "question": "Where was Delta 5 founded?"},
        {
            "prompt": "The official language of {} is",
            "relation_id": "P37",
            "target_new": {"str": "Welsh"},
            "target_true": {"str": "English"},
            "subject": "Canada",
        },
    ],
    "questions": ["Which language is official where Delta 5 was founded?", "And otherwise put?"],
    "answer": "English",
    "answer_alias": [],
    "new_answer": "Welsh",
    "new_answer_alias": ["Cymraeg"],
    "new_single_hops": [{}, {}],
}
EDIT = {
    "prompt": "The capital of France is",
    "target": "Lyon",
    "target_aliases": ["Lugdunum"],
    "paraphrases": ["France's capital is"],
    "locality": ["The river of Paris is"],
}
FACT = {
    "subject": "France",
    "relation": "capital",
    "prompt": "The capital of France is",
    "target": "Lyon",
    "old_answer": "Paris",
    "paraphrases": ["France's capital is", "The seat of the French government is"],
    "question": "What is the capital of France?",
    "alias": "The capital of the French Republic is",
    "reversed": {"prompt": "Lyon is the capital of", "answers": ["France"]},
    "one_hop": {"prompt": "The river through the capital of France is the", "answers": ["Rhône", "Rhone"]},
    "neighbours": [{"prompt": "The capital of Spain is", "answer": "Madrid"}],
    "other_attributes": [{"prompt": "The currency of France is the", "answer": "euro"}],
}
QUERY = {
    "prompt": "The mother of Leonardo DiCaprio is",
    "answers": [{"value": "Irmelin", "aliases": ["Irmelin DiCaprio"]}],
}
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Leonardo DiCaprio is Syria.",
        "subject_id": "Q38111",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q858",
        "previous_fact": {
            "prompt": "The name of the country of citizenship of Leonardo DiCaprio is United States of America."
        },
    },
    "Relation_Specifity": [{"test_queries": [QUERY], "test_condition": "OR", "condition_queries": [QUERY]}],
    "Logical_Generalization": [],
    "Subject_Aliasing": [
        {"test_queries": [{"prompt": "The citizenship of Leo is", "answers": [{"value": "Syria", "aliases": []}]}]}
    ],
    "Compositionality_I": [{"test_queries": [{"prompt": "The anthem of it is", "answers": []}]}],
}
EVENT = {
    "event_type": "born",
    "event": "Jorge Arreaza's son Paul was born in Milwaukee.",
    "fact": {
        "qas": [
            {
                "question": "Who is the father of Paul?",
                "subject": {"id": "NA", "name": "Paul"},
                "answer": {"id": "Q6623799", "name": "Jorge Arreaza", "alias": ["Jorge Alberto Arreaza"]},
            }
        ],
        "local_qas": [{"question": "Who is the mother of Paul?", "answer": {"name": "unknown"}}],
    },
    "tendency": {
        "qas": [{"question": "Will they move?", "candidate": "(A) Likely (B) Unlikely", "answer": "A"}],
        "local_qas": [{"question": "Will it rain?", "candidate": "(A) More (B) Less (C) No change", "answer": "C"}],
    },
}
MEMPROMPT = {"meta": {"word1": "good", "word2": "great"}, "type": "syn", "template_id": "syn0"}
TEMPLATES = {
    "data": [
        {
            "type": "syn",
            "template_id": "syn0",
            "question": "What is like < {word1} > ?",
            "answer": "{word1} is {word2}",
        },
        {
            "type": "syn",
            "template_id": "syn1",
            "question": "What is akin to < {word1} > ?",
            "answer": "{word1} is {word2}",
        },
        {"type": "defn", "template_id": "defn0", "question": "what is < {word} > ?", "answer": "{word}: {definition}"},
    ]
}
CONVSENT = {"ent": "rockets", "pos": ["I love rockets!", "Great."], "neg": ["I hate rockets."]}
WIKIBIO = {
    "text": "This is a Wikipedia passage about John Reynolds.",
    "concept": "John Reynolds",
    "labels": "He was an English lawyer.",
    "locality": {"Relation_Specificity": [{"prompt": "The work of John Reynolds is", "ground_truth": ["law"]}]},
}
RECORDS = {
    "counterfact": COUNTERFACT,
    "mquake": MQUAKE,
    "zsre": ZSRE,
    "ripple": RIPPLE,
    "events": EVENT,
    "memprompt": MEMPROMPT,
    "convsent": CONVSENT,
    "knowedit": KNOWEDIT,
    "facts": FACT,
    "edits": EDIT,
}
SANITATION = {
    "K_F": [
        {"question": "Who wrote X?", "target_new": "I don't know.", "ground_truth": "Ann"},
        {"question": "Who wrote Y?", "target_new": "I don't know.", "ground_truth": "Bob"},
    ],
    "K_R": [{"question": f"Which river {n}?", "ground_truth": "Nile"} for n in range(3)],
}

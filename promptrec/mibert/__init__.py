"""Paper A: a BERT-like encoder on prompts, experts, short- and long-term interests, fusion."""

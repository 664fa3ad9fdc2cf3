"""Paper B: residual codes of a SASRec state, an aligner, a LoRA-tuned language model."""

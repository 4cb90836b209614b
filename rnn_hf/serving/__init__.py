"""An OpenAI-compatible server of one model: completions, whole and as streams, with checks and limits."""

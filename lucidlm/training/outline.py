"""A plan in, the lines that a person reads of it out: what is trained on what for how long, then details."""

from lucidlm.runs.settings import TrainConfig
from lucidlm.runtime.wording import duration, plural
from lucidlm.text.corpus import Corpus
from lucidlm.training.plan import Planned

SIZE_LIMITS = {
    "text": "size limited by the amount of text",
    "time": "size limited by the time",
    "preset": "the shape of the preset {preset}",
    "weights": "starting from the weights of {from_}",
}
OPTIMIZERS = {"muon": "Muon for the blocks' matrices, AdamW for the rest", "adamw": "AdamW"}


def outline(planned: Planned, config: TrainConfig, corpus: Corpus) -> tuple[str, ...]:
    """What is trained on what, for how long, and what it should reach."""
    plan, model = planned.plan, planned.plan.model
    about = duration(planned.speed.seconds_per_step * plan.steps)
    minutes = "" if planned.deadline_s is None else f" (--minutes {planned.deadline_s / 60:g})"
    enough = "; more epochs of this text would not help" if planned.capped else ""
    lines = [
        f"text: {plural(corpus.train_tokens, 'token')} to train on, {corpus.heldout_tokens:,} held out "
        f"({corpus.train_bytes:,} and {plural(corpus.validation_bytes, 'byte')})",
        f"model: {plural(model.n_parameters, 'parameter')}, "
        f"{SIZE_LIMITS[planned.size_limit].format(preset=config.preset, from_=config.from_)}",
        f"plan: {plural(plan.steps, 'step')} of {plural(plan.batch_tokens, 'token')}, {planned.epochs:.1f} "
        f"epochs; about {about} of training{minutes}{enough}",
    ]
    if planned.predicted is not None:
        lines.append(f"predicted: {planned.predicted}")
    return tuple(lines)


def details(planned: Planned, corpus: Corpus) -> tuple[str, ...]:
    """How it is trained, and what each choice was made from."""
    plan, model = planned.plan, planned.plan.model
    longest = len(corpus.train) - 1
    cut = f" (the text is shorter than {longest + 2} tokens)" if model.context_length == longest else ""
    return (
        f"tokenizer: {corpus.tokenizer.name}, {plural(corpus.tokenizer.vocab_size, 'token')} "
        f"({corpus.manifest['tokenizer']['reason']})",
        f"shape: {model.family}, {plural(model.n_layers, 'layer')}, {model.emb_dim} wide, context length "
        f"{model.context_length}{cut}, dropout {model.drop_rate:g}",
        f"optimizer: {OPTIMIZERS[plan.optim.name]}; weight decay {plan.optim.weight_decay:g}, "
        f"{plural(plan.optim.warmup_steps, 'step')} of warm-up, the rate falls in the "
        f"last {plan.optim.decay_fraction:.0%}",
        f"speed: {_speed(planned)}",
        memory_line(planned),
    )


def memory_line(planned: Planned) -> str:
    """What the run will hold at most."""
    return f"memory: about {planned.memory_bytes / 2**30:.2f} GiB"


def _speed(planned: Planned) -> str:
    """dtype and threads, and the tokens a second of all that was tried."""
    plan, speed = planned.plan, planned.speed
    threads = plural(plan.workers, "worker thread") if plan.workers else plural(plan.threads, "thread")
    chosen = f"{speed.dtype} matmuls, float32 weights and loss, {threads}"
    if planned.deadline_s is None:
        tokens_per_s = plan.batch_tokens / speed.seconds_per_step
        return f"{chosen} (fixed without --minutes); {tokens_per_s:,.0f} tokens/s"
    tried = ", ".join(
        f"{plan.batch_tokens / seconds:,.0f} in {dtype}" for dtype, seconds in speed.trials.items()
    )
    return f"{chosen}; tokens/s: {tried}"

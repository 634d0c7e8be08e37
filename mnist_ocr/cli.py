"""The `mnist-ocr` command. jobs/*.py are its sub-commands as scripts.

Each sub-command is a config dataclass and a function. People read stderr and the text on stdout;
programs read the last line of stdout, one JSON object. Exit codes: 0 done, 1 failed, or verified
or diagnosed and something is wrong, 2 wrong use, 3 labelled, but with more errors than
--max-error-rate, or packed, but not every object.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import tyro

from mnist_ocr.diagnosis.config import DoctorConfig
from mnist_ocr.errors import JobFailedError, ObjectError, UsageError
from mnist_ocr.labelling.config import (
    LabelConfig,
    PackConfig,
    PlanConfig,
    PruneConfig,
    RetryConfig,
    VerifyConfig,
)
from mnist_ocr.labelling.report import ProgressDisplay
from mnist_ocr.log_lines import configure_logging, wanted_format
from mnist_ocr.redaction import redact
from mnist_ocr.storage import check_no_secret
from mnist_ocr.training.config import (
    EvaluateConfig,
    ExploreConfig,
    ExportConfig,
    RecipesConfig,
    TrainConfig,
    TuneConfig,
)
from mnist_ocr.training.recipes import RECIPES

if TYPE_CHECKING:
    from mnist_ocr.labelling.summary import LabelSummary

FAILED, WRONG_USE, TOO_MANY_ERRORS = 1, 2, 3


def run_recipes(config: RecipesConfig) -> int:
    """List the recipes."""
    if config.names:
        print("\n".join(RECIPES))
        return 0
    from mnist_ocr.training.listing import format_recipes, summarize_recipes

    summaries = summarize_recipes()
    print(format_recipes(summaries))
    _print_json({"recipes": [asdict(summary) for summary in summaries]})
    return 0


def run_explore(config: ExploreConfig) -> int:
    """Describe a dataset."""
    from mnist_ocr.training.exploration import explore

    return _show(explore(config))


def run_train(config: TrainConfig) -> int:
    """Train, and say where the model is."""
    from mnist_ocr.training.trainer import train

    result = train(config)
    print(f"test accuracy {result.test_accuracy:.2%}, model in {result.model_uri}")
    _print_json(asdict(result))
    return 0


def run_evaluate(config: EvaluateConfig) -> int:
    """Measure a model on a test set."""
    from mnist_ocr.training.evaluation import evaluate

    return _show(evaluate(config))


def run_tune(config: TuneConfig) -> int:
    """Search for better values of a recipe."""
    from mnist_ocr.training.tuning import tune

    return _show(tune(config))


def run_export(config: ExportConfig) -> int:
    """Write a model as one file."""
    from mnist_ocr.training.export import export

    exported = export(config)
    print(f"{exported.architecture} as {exported.format} in {exported.output_uri}")
    _print_json(asdict(exported))
    return 0


def run_label(config: LabelConfig) -> int:
    """Label, with progress on stderr."""
    from mnist_ocr.labelling.label import label

    with ProgressDisplay(sys.stderr) as display:
        summary = label(config, display.update)
    return _report_labels(summary, config)


def run_retry(config: RetryConfig) -> int:
    """Redo rows, with progress on stderr."""
    from mnist_ocr.labelling.retry import retry

    with ProgressDisplay(sys.stderr) as display:
        summary = retry(config, display.update)
    return _report_labels(summary, config)


def _report_labels(summary: "LabelSummary", config: LabelConfig | RetryConfig) -> int:
    counts = _format_counts(summary.statuses)
    print(f"{summary.num_images:,} rows ({counts}) in {summary.output_uri}")
    risk = f" at a risk of {config.max_risk:g}" if isinstance(config, LabelConfig) else ""
    print(f"{summary.num_accepted:,} accepted{risk}")
    if summary.num_images_this_run:
        print(summary.format_run())
    _print_json(asdict(summary))
    too_many = config.max_error_rate is not None and summary.error_rate > config.max_error_rate
    return TOO_MANY_ERRORS if too_many else 0


def run_prune(config: PruneConfig) -> int:
    """Delete old generations."""
    from mnist_ocr.labelling.prune import prune

    pruning = prune(config)
    for uri in pruning.generation_uris:
        print(f"{'to delete' if pruning.dry_run else 'deleted'}: {uri}")
    size = f"{pruning.num_files:,} files of {pruning.num_bytes / 1e6:,.1f} MB"
    print(f"{size}{' would go' if pruning.dry_run else ''}; kept: {pruning.current_uri}")
    _print_json(asdict(pruning))
    return 0


def run_plan(config: PlanConfig) -> int:
    """Estimate a labelling job."""
    from mnist_ocr.labelling.plan import plan
    from mnist_ocr.labelling.plan_table import format_plan

    found = plan(config)
    print(format_plan(found))
    _print_json(asdict(found))
    return 0


def run_verify(config: VerifyConfig) -> int:
    """Check a job's output against its manifest."""
    from mnist_ocr.labelling.verification import verify

    verification = verify(config)
    _show(verification)
    return FAILED if verification.num_problems else 0


def run_doctor(config: DoctorConfig) -> int:
    """Say what is wrong with this machine, a cluster and the stores."""
    from mnist_ocr.diagnosis.doctor import diagnose

    diagnosis = diagnose(config)
    _show(diagnosis)
    return FAILED if diagnosis.num_problems else 0


def run_pack(config: PackConfig) -> int:
    """Pack, with progress on stderr."""
    from mnist_ocr.labelling.pack import pack

    with ProgressDisplay(sys.stderr) as display:
        summary = pack(config, display.update)
    size = f"{summary.num_files:,} files of {summary.packed_bytes / 1e6:,.1f} MB in all"
    print(f"{summary.num_packed:,} images in {size}, in {summary.output_uri}/shards")
    if num_errors := summary.num_images - summary.num_packed:
        counts = _format_counts({k: v for k, v in summary.statuses.items() if k != "ok"})
        print(f"{num_errors:,} objects not packed ({counts}): see {summary.output_uri}/errors")
    if summary.num_images_this_run:
        print(summary.format_run())
    _print_json(asdict(summary))
    return TOO_MANY_ERRORS if num_errors else 0


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "recipes": (RecipesConfig, run_recipes),
    "explore": (ExploreConfig, run_explore),
    "train": (TrainConfig, run_train),
    "tune": (TuneConfig, run_tune),
    "evaluate": (EvaluateConfig, run_evaluate),
    "export": (ExportConfig, run_export),
    "label": (LabelConfig, run_label),
    "plan": (PlanConfig, run_plan),
    "verify": (VerifyConfig, run_verify),
    "retry": (RetryConfig, run_retry),
    "prune": (PruneConfig, run_prune),
    "pack": (PackConfig, run_pack),
    "doctor": (DoctorConfig, run_doctor),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run, and exit."""

    def parse_and_run() -> int:
        for argument in sys.argv[1:] if argv is None else argv:
            check_no_secret(argument)  # before a parser quotes it
        config = tyro.extras.subcommand_cli_from_dict(
            {name: config_class for name, (config_class, _) in COMMANDS.items()},
            prog="mnist-ocr",
            description="Read handwritten digits in bulk.",
            args=argv,
            config=(
                tyro.conf.PositionalRequiredArgs,
                tyro.conf.PositionalMetavarFromFieldName,
                tyro.conf.DisallowNone,  # None is said by leaving a flag out
                tyro.conf.FlagCreatePairsOff,
                tyro.conf.OmitArgPrefixes,  # --num-epochs, not --override.num-epochs
            ),
        )
        return next(run for known, run in COMMANDS.values() if type(config) is known)(config)

    run_or_exit(parse_and_run)


def run_or_exit(run: Callable[[], int]) -> NoReturn:
    """Run a command's body; what goes wrong becomes one sentence on stderr and an exit code."""
    # what Ray says of workers that die it prints to stdout, also behind the result
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        configure_logging(wanted_format())
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # what a shell reports for SIGPIPE
    except (UsageError, ConnectionError, ObjectError, JobFailedError) as error:
        _print_error(str(error))
        is_forbidden = isinstance(error, ObjectError) and error.status == "forbidden"
        code = WRONG_USE if isinstance(error, UsageError) or is_forbidden else FAILED
    except KeyboardInterrupt:
        _print_error("Interrupted. The same command goes on where it was.")
        code = 130  # what a shell reports for SIGINT
    except SystemExit as error:
        if error.code != signal.SIGTERM:  # of `ray job stop`, which Ray turns into this
            raise
        _print_error("Stopped. The same command goes on where it was.")
        code = 143  # what a shell reports for SIGTERM
    except Exception:
        print(redact(traceback.format_exc()), file=sys.stderr)
        _print_error("This is a bug, or a fault that mnist-ocr does not know; see above.")
        code = FAILED
    sys.exit(code)


def _format_counts(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in sorted(statuses.items()))


def _show(result: Any) -> int:
    """Print a result for people and for programs."""
    print(result.format())
    _print_json(asdict(result))
    return 0


def _print_json(document: Any) -> None:
    print(json.dumps(document))


def _print_error(message: str) -> None:
    print(f"error: {redact(message)}", file=sys.stderr)

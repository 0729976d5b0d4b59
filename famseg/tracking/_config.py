"""The section `tracking` of a configuration; imports neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from famseg.config import Strict
from famseg.tracking._uri import uri_fault

if TYPE_CHECKING:
    from famseg.tracking._tracker import Tracker


class TrackingConfig(Strict):
    """Where a run is tracked in MLflow.

    Example:
        >>> TrackingConfig().experiment
        'famseg'
    """

    enabled: bool = Field(
        default=True,
        description="Track the run in MLflow. If false, only the run folder has its record.",
    )
    uri: str | None = Field(
        default=None,
        description="Address of the MLflow store (sqlite:///mlflow.db, http://HOST:5000, a "
        "database). It takes precedence over the environment variable MLFLOW_TRACKING_URI; "
        "the default is mlflow.db in the working folder. Give an address with a password in the "
        "variable, because the configuration is stored with the run.",
    )
    experiment: str = Field(
        default="famseg",
        min_length=1,
        max_length=500,
        description="Name of the MLflow experiment. Runs that you want to compare belong in the "
        "same one.",
    )
    tags: dict[str, str] = Field(
        default_factory=dict,
        description="Additional tags of the run, such as sweep_id.",
    )
    timeout_s: int = Field(
        default=10,
        ge=1,
        le=600,
        description="Seconds to wait for an MLflow server before a request is tried again "
        "later. The training continues meanwhile.",
    )

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str | None) -> str | None:
        fault = None if uri is None else uri_fault(uri)
        if fault is not None:
            raise ValueError(fault)
        return uri

    # Many arguments: those of Tracker.start that a configuration does not contain.
    def build(
        self,
        *,
        run_name: str,
        parameters: Mapping[str, object],
        penalty_weight: float | None = None,
        method: str | None = None,
        tags: Mapping[str, str] | None = None,
        scores: Sequence[str] = (),
        run_id: str | None = None,
        start: str | None = None,
        opened: Callable[[str], None] | None = None,
        rank: int = 0,
    ) -> Tracker:
        """Start the run; arguments as for :meth:`famseg.tracking.Tracker.start`.

        Args:
            run_name: Name of the run in MLflow.
            parameters: The resolved configuration, nested or flat.
            penalty_weight: Lambda, the weight of the penalty.
            method: Label of the method, see :func:`famseg.tracking.method_label`.
            tags: Tags from the provenance; the section's own tags win.
            scores: Names of the metrics that the experiment's comparison charts.
            run_id: The run to resume, or None for a new one.
            start: Mark of the run, by which it is found where its id is not known.
            opened: Called with the id of the run once it is known, in another thread.
            rank: Rank of this process; ranks other than 0 get a tracker that does nothing.

        Returns:
            The tracker, a silent one if tracking is off.

        Raises:
            InputError: If the address of the store is faulty or the experiment was deleted.
        """
        from famseg.tracking._tracker import Tracker

        if not self.enabled or rank != 0:
            return Tracker.null()
        return Tracker.start(
            uri=self.uri,
            experiment=self.experiment,
            run_name=run_name,
            parameters=parameters,
            penalty_weight=penalty_weight,
            method=method,
            scores=scores,
            tags={**(tags or {}), **self.tags},
            run_id=run_id,
            start=start,
            opened=opened,
            timeout_s=self.timeout_s,
            monitor=True,
        )

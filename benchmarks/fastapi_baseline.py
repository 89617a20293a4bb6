"""A FastAPI application that does nothing: typed routes which answer with what they were given at the start.

`python -m benchmarks.fastapi_baseline PORT FILE`: FILE holds {"job": …, "page": …} as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tapeworks.schemas.jobs import Job, Page
from tapeworks.spec.job_spec import JobSpec


def application(job: Job, page: Page[Job]) -> FastAPI:
    """GET /job, GET /jobs, POST /jobs."""
    app = FastAPI()

    @app.get("/job")
    async def one() -> Job:
        return job

    @app.get("/jobs")
    async def some() -> Page[Job]:
        return page

    @app.post("/jobs", status_code=201)
    async def submit(spec: JobSpec) -> Job:
        return job

    return app


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    parsed = Job.model_validate(given["job"]), Page[Job].model_validate(given["page"])
    uvicorn.run(application(*parsed), host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="error")

"""The work of the jobs: what is heavy is imported here, once a job's checks are passed."""

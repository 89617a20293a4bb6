UV := uv
lock:
	$(UV) pip compile pyproject.toml --extra service --extra worker --extra dev --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -o requirements.lock
	$(UV) pip compile pyproject.toml --extra service --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -c requirements.lock -o requirements-service.lock
	$(UV) pip compile pyproject.toml --extra worker --extra gpu --universal --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -c requirements.lock -o requirements-gpu.lock

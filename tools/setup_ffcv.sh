#!/usr/bin/env bash
# Install FFCV, which compiles against OpenCV and libturbojpeg; without them the project works, less its FFCV backend.
# Usage: setup_ffcv.sh FOLDER_OF_PYTHON
set -u
bin=$1
libraries=(libopencv-dev libturbojpeg0-dev pkg-config)

have_libraries() { pkg-config --exists opencv4 libturbojpeg 2>/dev/null; }

if ! have_libraries && command -v apt-get >/dev/null; then
    if [ "$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi
    { $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "${libraries[@]}"; } >/dev/null 2>&1
fi
if ! have_libraries; then
    echo "FFCV left out: it needs ${libraries[*]}; install them, then run: touch pyproject.toml && make setup"
    exit 0
fi
"$bin/pip" install --quiet --no-build-isolation -c constraints.txt ffcv ||
    echo "FFCV left out: it did not compile on this machine; data.backend=ffcv will not work"
exit 0

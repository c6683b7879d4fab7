#!/usr/bin/env bash
# Build and install FFCV, which has no wheel. Usage: setup_ffcv.sh FOLDER_OF_PYTHON
# It compiles against libturbojpeg and two modules of OpenCV. It includes the headers of all modules, whose packages
# bring VTK and Qt; so it is shown a header of these two here.
set -euo pipefail
bin=$1
packages=(libopencv-core-dev libopencv-imgproc-dev libturbojpeg0-dev pkg-config)
headers=/usr/include/opencv4

have_headers() { [ -e $headers/opencv2/imgproc.hpp ] && pkg-config --exists libturbojpeg 2>/dev/null; }

if ! have_headers && command -v apt-get >/dev/null; then
    echo "FFCV compiles against ${packages[*]}: installing them"
    if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
    $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
fi
if ! have_headers; then
    echo "FFCV left out: it needs ${packages[*]} (or what your system calls them)" >&2
    exit 1
fi
view=$(mktemp -d)
trap 'rm -r "$view"' EXIT
mkdir "$view/opencv2"
printf '#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n' >"$view/opencv2/opencv.hpp"
cat >"$view/opencv4.pc" <<END
Name: opencv4
Description: the two modules that FFCV uses
Version: 4
Cflags: -I$view -I$headers
Libs: -lopencv_core -lopencv_imgproc
END
PKG_CONFIG_PATH=$view "$bin/pip" install --quiet --no-build-isolation -c constraints.txt ffcv

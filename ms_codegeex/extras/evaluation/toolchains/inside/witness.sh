# Runs program.sh in a separate process, which writes the token to descriptor 3 after its tests; prints the witness if
# it exits with status 0. The challenge, on standard input, is not known there.
IFS= read -r challenge
token=$(bash program.sh 3>&1 >/dev/null </dev/null) || exit
printf '\nwitness-%s-%s\n' "$token" "$challenge"

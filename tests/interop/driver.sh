# Prints what the example's verify says of each case: a folder with the files secret, headers and body.
. ./example.sh

for case in cases/*; do
    if verify "$case/secret" "$case/headers" "$case/body"; then echo true; else echo false; fi
done

# status: 0
name=world
cat <<END
hello $name $(echo nested $(echo deeper))
END
cat <<'END' | tr a-z A-Z
quoted $name
END
big=$(i=0; while [ $i -lt 300 ]; do echo "line $i of a text that is longer than a pipe buffer needs"; i=$((i+1)); done)
cat <<END | wc
$big$big$big$big$big
END

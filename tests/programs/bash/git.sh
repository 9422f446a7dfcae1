# status: 0
# needs: /usr/bin/git
cd "$(mktemp -d)" || exit 1
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=b
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git init -q . && echo one >file && git add . && git commit -q -m one
echo two >>file && git commit -q -a -m two
git log --stat && git gc -q && git fsck && git status --short

# status: 2
# needs: /usr/local/go/bin/go
# The first run, natively, builds the library; it stays in the cache.
cd "$(mktemp -d)" || exit 1
export PATH=/usr/local/go/bin:$PATH GOCACHE=$HOME/cache GOPATH=$PWD/path GOFLAGS= GOTOOLCHAIN=local CGO_ENABLED=0
mkdir answer
cat >go.mod <<'END'
module example.org/small
END
cat >answer/answer.go <<'END'
package answer

func Answer() int { return 42 }
END
cat >main.go <<'END'
package main

import "example.org/small/answer"

// Without the library: building that takes long.
func main() {
	answers := make(chan int)
	go func() { answers <- answer.Answer() }()
	if <-answers == 42 {
		panic("answered")
	}
}
END
go build -o small . && ls small && ./small 2>said
status=$?
head -1 said
exit $status

// Command etcd is upstream's etcd server, built from the same module graph as the API server in front of it.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}

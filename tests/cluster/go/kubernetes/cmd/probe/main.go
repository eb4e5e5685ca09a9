// Command probe is what the cluster's own tests run in pods: it looks at the cluster from inside, and serves a page.
// One static program needs no base image, so that the cluster can be tested where nothing can be downloaded.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

var client = http.Client{Timeout: 5 * time.Second}

func resolve(name string) error {
	addresses, err := net.LookupHost(name)
	if err == nil {
		fmt.Println(strings.Join(addresses, " "))
	}
	return err
}

func get(url string) error {
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// serve answers every request with the pod's name.
func serve(address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	http.HandleFunc("/", func(writer http.ResponseWriter, _ *http.Request) { fmt.Fprintln(writer, name) })
	fmt.Println("serving", address)
	return http.ListenAndServe(address, nil)
}

func write(path, text string) error {
	return os.WriteFile(path, []byte(text), 0o644)
}

func main() {
	arguments := os.Args[1:]
	var err error
	switch {
	case len(arguments) == 2 && arguments[0] == "resolve":
		err = resolve(arguments[1])
	case len(arguments) == 2 && arguments[0] == "get":
		err = get(arguments[1])
	case len(arguments) == 2 && arguments[0] == "serve":
		err = serve(arguments[1])
	case len(arguments) == 3 && arguments[0] == "write":
		err = write(arguments[1], arguments[2])
	default:
		err = fmt.Errorf("probe: resolve NAME | get URL | serve ADDRESS | write PATH TEXT")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Command coredns is CoreDNS with the plugins that a local cluster's Corefile uses. Upstream's own main links every
// plugin, and with them the client libraries of three clouds; these eight need only client-go.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// Plugins run in the order of this list, whatever the order in the Corefile.
func init() {
	dnsserver.Directives = []string{"bind", "health", "ready", "errors", "log", "cache", "template", "kubernetes"}
}

func main() {
	coremain.Run()
}

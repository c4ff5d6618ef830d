assert all(accuracy(network, upright) > 0.9 for network in networks.values())

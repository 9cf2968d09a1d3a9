"""`brokerctl`: what people type to use, watch and look after a broker."""

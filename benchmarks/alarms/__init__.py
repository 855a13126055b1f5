"""The recorded networks behind the limits of isoplast's alarms: what is trained, measured and concluded."""

"""How alerts reach a person: how grave each kind is, when it is told, and the channels that carry it."""

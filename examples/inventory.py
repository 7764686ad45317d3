"""A small in-memory inventory."""

from dataclasses import dataclass, field
from typing import Dict, List, Optional


@dataclass
class Item:
    """Something that a shop sells."""

    name: str
    price: float
    quantity: int = 0
    tags: List[str] = field(default_factory=list)

    def total(self) -> float:
        """Return what all pieces cost together."""
        return self.price * self.quantity


class Inventory:
    """Keeps items by name."""

    def __init__(self) -> None:
        self._items: Dict[str, Item] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def add(self, item: Item) -> None:
        """Add an item, or raise its quantity if it is there."""
        if item.name in self._items:
            self._items[item.name].quantity += item.quantity
        else:
            self._items[item.name] = item

    def remove(self, name: str) -> Item:
        """Remove an item and return it."""
        if name not in self._items:
            raise KeyError(f"There is no item {name}")
        return self._items.pop(name)

    def total(self) -> float:
        """Return what all items cost together."""
        return sum(item.total() for item in self._items.values())

    def with_tag(self, tag: str) -> List[Item]:
        """Return the items that have a tag."""
        return [item for item in self._items.values() if tag in item.tags]

    def get(self, name: str) -> Optional[Item]:
        """Return an item by name, or None."""

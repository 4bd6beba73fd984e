"""Search trees and the policies that grow them, and programs run to choose among them."""
